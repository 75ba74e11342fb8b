#include "tokenizer/pipeline_tokenizer.h"

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "tokenizer/scratch_pool.h"
#include "tokenizer/unicode.h"

namespace weft {

namespace {

struct Scratch {
  std::unique_ptr<ModelScratch> model;
  std::string buffers[2];
};

class ModelSink : public PieceSink {
 public:
  ModelSink(const WordModel& model, ModelScratch& scratch, std::vector<int32_t>& ids)
      : model_(model), scratch_(scratch), ids_(ids) {}
  void accept(const Piece& piece) override { model_.encode(piece.text, piece.readable_end, scratch_, ids_); }
  void add_token(int32_t id) { ids_.push_back(id); }

 private:
  const WordModel& model_;
  ModelScratch& scratch_;
  std::vector<int32_t>& ids_;
};

/// Encodes pieces of known origin.
class OffsetSink : public PieceSink {
 public:
  OffsetSink(const WordModel& model, std::string_view original, std::vector<int32_t>& ids)
      : model_(model), original_(original), ids_(ids) {}

  void accept(const Piece& piece) override {
    const size_t num_spans = spans_.size();
    is_complete_ = is_complete_ && piece.sources != nullptr && model_.encode_with_spans(piece.text, ids_, spans_);
    if (!is_complete_) return;
    for (size_t i = num_spans; i < spans_.size(); ++i) {
      spans_[i] = original_span(original_, piece.sources, spans_[i].begin, spans_[i].end);
    }
  }

  void add_token(int32_t id, const AlignedText& text, size_t begin, size_t end) {
    ids_.push_back(id);
    spans_.push_back(original_span(original_, text.sources.data(), begin, end));
  }

  /// False once a stage could not say where a piece comes from.
  bool is_complete() const { return is_complete_; }
  std::vector<TokenSpan> take_spans() { return std::move(spans_); }

 private:
  const WordModel& model_;
  std::string_view original_;
  std::vector<int32_t>& ids_;
  std::vector<TokenSpan> spans_;
  bool is_complete_ = true;
};

/// The text as valid UTF-8, and where each byte's character begins in the original.
AlignedText align_repaired(std::string_view text) {
  if (text.size() > UINT32_MAX) {
    fail_input("a text of {} bytes; offsets are known for at most {} at a time", text.size(), UINT32_MAX);
  }
  AlignedText repaired;
  repaired.bytes.reserve(text.size());
  repaired.sources.reserve(text.size());
  for (size_t begin = 0; begin < text.size();) {
    const Utf8Character character = read_utf8(text.substr(begin));
    const auto length = static_cast<size_t>(character.length);
    append_lossy_utf8(text.substr(begin, length), repaired.bytes);
    repaired.sources.resize(repaired.bytes.size(), static_cast<uint32_t>(begin));
    begin += length;
  }
  return repaired;
}

[[noreturn]] void fail_offsets(const PipelineParts& parts) {
  fail_input("{}: a tokenizer of type {} with these stages cannot say where in the text its tokens come from",
             parts.where,
             parts.type);
}

class PipelineDecoder : public TokenDecoder {
 public:
  PipelineDecoder(const Tokenizer& tokenizer, const DecoderSteps& steps, bool skip_special_tokens)
      : tokenizer_(tokenizer), skip_special_tokens_(skip_special_tokens) {
    for (const auto& step : steps) stages_.push_back(step->start());
  }

  void push(int32_t id, std::string& out) override {
    std::string token = tokenizer_.id_to_token(id);
    if (token.empty() || (skip_special_tokens_ && tokenizer_.is_special(id))) return;
    tokens_.clear();
    tokens_.push_back(std::move(token));
    run_stages(0, out);
  }

  void finish(std::string& out) override {
    for (size_t stage = 0; stage < stages_.size(); ++stage) {
      tokens_.clear();
      stages_[stage]->finish(tokens_);
      run_stages(stage + 1, out);
    }
  }

 private:
  void run_stages(size_t first, std::string& out) {
    for (size_t stage = first; stage < stages_.size(); ++stage) {
      next_tokens_.clear();
      for (std::string& token : tokens_) stages_[stage]->push(std::move(token), next_tokens_);
      std::swap(tokens_, next_tokens_);
    }
    for (const std::string& token : tokens_) out += token;
  }

  const Tokenizer& tokenizer_;
  bool skip_special_tokens_;
  DecodeStage::Stages stages_;
  std::vector<std::string> tokens_;
  std::vector<std::string> next_tokens_;
};

/// Added tokens, by where they are looked for.
struct Matchers {
  AddedTokenMatcher raw;
  AddedTokenMatcher normalized;
};

Matchers make_matchers(const PipelineParts& parts, bool with_specials) {
  std::vector<AddedToken> raw;
  std::vector<AddedToken> normalized;
  for (const AddedToken& token : parts.added_tokens) {
    if (!token.is_special || with_specials) (token.is_normalized ? normalized : raw).push_back(token);
  }
  for (AddedToken& token : normalized) {
    std::string buffers[2];
    token.content = std::string(parts.normalizer.normalize(token.content, buffers));
  }
  return {.raw = AddedTokenMatcher(std::move(raw), parts.where),
          .normalized = AddedTokenMatcher(std::move(normalized), parts.where)};
}

class PipelineTokenizer : public Tokenizer {
 public:
  using Tokenizer::encode;

  explicit PipelineTokenizer(PipelineParts parts)
      : parts_(std::move(parts)),
        is_special_(static_cast<size_t>(parts_.vocabulary->size())),
        all_added_(make_matchers(parts_, /*with_specials=*/true)),
        plain_added_(make_matchers(parts_, /*with_specials=*/false)) {
    for (const AddedToken& token : parts_.added_tokens) {
      if (token.is_special) is_special_[static_cast<size_t>(token.id)] = true;
    }
  }

  std::string_view type() const override { return parts_.type; }
  int32_t vocab_size() const override { return parts_.vocabulary->size(); }

  std::vector<int32_t> encode(std::string_view text, bool add_special_tokens, SpecialsInText specials) const override {
    std::string repaired;
    if (!is_valid_utf8(text)) {
      append_lossy_utf8(text, repaired);
      text = repaired;
    }
    std::vector<int32_t> ids;
    ids.reserve(text.size() / 4 + parts_.prefix_ids.size() + parts_.suffix_ids.size() + 16);
    if (add_special_tokens) ids = parts_.prefix_ids;
    std::unique_ptr<Scratch> scratch = pool_.take(
        [&] { return std::make_unique<Scratch>(Scratch{.model = parts_.model->make_scratch(), .buffers = {}}); });
    const Matchers& added = matchers(specials);
    ModelSink sink(model(specials), *scratch->model, ids);
    added.raw.split(
        text,
        [&](size_t begin, size_t end) {
          encode_segment(text, {.begin = begin, .end = end}, added.normalized, scratch->buffers, sink);
        },
        [&](int32_t id, size_t, size_t) { sink.add_token(id); });
    give_back(std::move(scratch));
    if (add_special_tokens) ids.insert(ids.end(), parts_.suffix_ids.begin(), parts_.suffix_ids.end());
    return ids;
  }

  std::vector<TokenSpan> encode_with_offsets(std::string_view text,
                                             std::vector<int32_t>& ids,
                                             SpecialsInText specials) const override {
    const AlignedText repaired = align_repaired(text);
    const Matchers& added = matchers(specials);
    ids.clear();
    OffsetSink sink(model(specials), text, ids);
    added.raw.split(
        repaired.bytes,
        [&](size_t begin, size_t end) { encode_segment_with_offsets(repaired, begin, end, added.normalized, sink); },
        [&](int32_t id, size_t begin, size_t end) { sink.add_token(id, repaired, begin, end); });
    return sink.take_spans();
  }

  std::unique_ptr<TokenDecoder> start_decoding(bool skip_special_tokens) const override {
    return std::make_unique<PipelineDecoder>(*this, parts_.decoder, skip_special_tokens);
  }

  std::optional<int32_t> token_to_id(std::string_view token) const override {
    const int32_t id = parts_.vocabulary->find(token);
    return id < 0 ? std::nullopt : std::optional(id);
  }
  std::string id_to_token(int32_t id) const override { return std::string(parts_.vocabulary->token(id)); }
  bool is_special(int32_t id) const override {
    return id >= 0 && static_cast<size_t>(id) < is_special_.size() && is_special_[static_cast<size_t>(id)];
  }
  std::optional<int32_t> bos_id() const override { return parts_.bos_id; }
  const std::vector<int32_t>& end_ids() const override { return parts_.end_ids; }
  const std::string& chat_template() const override { return parts_.chat_template; }

 protected:
  TextTemplate text_template(bool is_pair) const override {
    using Kind = TemplatePiece::Kind;
    if (is_pair && !parts_.pair_template.empty()) return parts_.pair_template;
    if (is_pair) return {{.kind = Kind::first_text}, {.kind = Kind::second_text, .segment = 1}};
    TextTemplate pieces;
    for (const int32_t id : parts_.prefix_ids) pieces.push_back({.id = id});
    pieces.push_back({.kind = Kind::first_text});
    for (const int32_t id : parts_.suffix_ids) pieces.push_back({.id = id});
    return pieces;
  }

 private:
  bool recognises(SpecialsInText specials) const {
    return specials == SpecialsInText::as_in_file ? parts_.recognises_specials : specials == SpecialsInText::recognised;
  }
  const Matchers& matchers(SpecialsInText specials) const { return recognises(specials) ? all_added_ : plain_added_; }
  const WordModel& model(SpecialsInText specials) const {
    return recognises(specials) || !parts_.plain_model ? *parts_.model : *parts_.plain_model;
  }

  void encode_segment(std::string_view text,
                      TextSpan span,
                      const AddedTokenMatcher& normalized_added,
                      std::string (&buffers)[2],
                      ModelSink& sink) const {
    const std::string_view segment = text.substr(span.begin, span.end - span.begin);
    const std::string_view normalized = parts_.normalizer.normalize(segment, buffers);
    const bool is_unchanged = normalized.data() == segment.data();
    const char* readable_end = is_unchanged ? text.data() + text.size() : normalized.data() + normalized.size();
    normalized_added.split(
        normalized,
        [&](size_t begin, size_t end) {
          const bool is_text_start = span.begin == 0 && begin == 0;
          const Piece piece{normalized.substr(begin, end - begin), readable_end, is_text_start};
          run_pre_tokenizers(parts_.pre_tokenizers, piece, sink);
        },
        [&](int32_t id, size_t, size_t) { sink.add_token(id); });
  }

  void encode_segment_with_offsets(const AlignedText& text,
                                   size_t segment_begin,
                                   size_t segment_end,
                                   const AddedTokenMatcher& normalized_added,
                                   OffsetSink& sink) const {
    AlignedText segment{text.bytes.substr(segment_begin, segment_end - segment_begin),
                        {text.sources.begin() + static_cast<std::ptrdiff_t>(segment_begin),
                         text.sources.begin() + static_cast<std::ptrdiff_t>(segment_end)}};
    if (!parts_.normalizer.normalize_aligned(segment)) fail_offsets(parts_);
    const std::string_view bytes = segment.bytes;
    normalized_added.split(
        bytes,
        [&](size_t begin, size_t end) {
          const bool is_text_start = segment_begin == 0 && begin == 0;
          const Piece piece{bytes.substr(begin, end - begin),
                            bytes.data() + bytes.size(),
                            is_text_start,
                            segment.sources.data() + begin};
          run_pre_tokenizers(parts_.pre_tokenizers, piece, sink);
        },
        [&](int32_t id, size_t begin, size_t end) { sink.add_token(id, segment, begin, end); });
    if (!sink.is_complete()) fail_offsets(parts_);
  }

  void give_back(std::unique_ptr<Scratch> scratch) const {
    // One long text must not keep its memory for ever.
    constexpr size_t kMaxKeptBytes = size_t{1} << 20;
    for (std::string& buffer : scratch->buffers) {
      if (buffer.capacity() > kMaxKeptBytes) buffer = std::string();
    }
    pool_.give_back(std::move(scratch));
  }

  PipelineParts parts_;
  std::vector<bool> is_special_;
  Matchers all_added_;
  Matchers plain_added_;  // without special tokens
  mutable ScratchPool<Scratch> pool_;
};

}  // namespace

VocabularyView view_of(const PipelineParts& parts) {
  return {.find =
              [&](std::string_view token) {
                const int32_t id = parts.vocabulary->find(token);
                return id < 0 ? std::nullopt : std::optional(id);
              },
          .is_special =
              [&](int32_t id) {
                const auto is_it = [&](const AddedToken& token) { return token.id == id && token.is_special; };
                return std::any_of(parts.added_tokens.begin(), parts.added_tokens.end(), is_it);
              },
          .size = parts.vocabulary->size()};
}

std::shared_ptr<const Tokenizer> make_pipeline_tokenizer(PipelineParts parts) {
  return std::make_shared<PipelineTokenizer>(std::move(parts));
}

}  // namespace weft
