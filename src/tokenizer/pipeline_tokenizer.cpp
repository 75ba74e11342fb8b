#include "tokenizer/pipeline_tokenizer.h"

#include <algorithm>
#include <utility>

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

 private:
  const WordModel& model_;
  ModelScratch& scratch_;
  std::vector<int32_t>& ids_;
};

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

class PipelineTokenizer : public Tokenizer {
 public:
  explicit PipelineTokenizer(PipelineParts parts) : parts_(std::move(parts)), is_special_(vocab_size_of(parts_)) {
    std::vector<AddedToken> raw;
    std::vector<AddedToken> normalized;
    for (const AddedToken& token : parts_.added_tokens) {
      if (token.is_special) is_special_[static_cast<size_t>(token.id)] = true;
      (token.is_normalized ? normalized : raw).push_back(token);
    }
    for (AddedToken& token : normalized) {
      std::string buffers[2];
      token.content = std::string(parts_.normalizer.normalize(token.content, buffers));
    }
    raw_matcher_ = AddedTokenMatcher(std::move(raw), parts_.where);
    normalized_matcher_ = AddedTokenMatcher(std::move(normalized), parts_.where);
  }

  std::string_view type() const override { return parts_.type; }
  int32_t vocab_size() const override { return parts_.vocabulary->size(); }

  std::vector<int32_t> encode(std::string_view text, bool add_special_tokens) const override {
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
    raw_matcher_.split(
        text,
        [&](size_t begin, size_t end) { encode_segment(text, begin, end, *scratch, ids); },
        [&](int32_t id, size_t, size_t) { ids.push_back(id); });
    give_back(std::move(scratch));
    if (add_special_tokens) ids.insert(ids.end(), parts_.suffix_ids.begin(), parts_.suffix_ids.end());
    return ids;
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

 private:
  static size_t vocab_size_of(const PipelineParts& parts) { return static_cast<size_t>(parts.vocabulary->size()); }

  void encode_segment(std::string_view text,
                      size_t segment_begin,
                      size_t segment_end,
                      Scratch& scratch,
                      std::vector<int32_t>& ids) const {
    const std::string_view segment = text.substr(segment_begin, segment_end - segment_begin);
    const std::string_view normalized = parts_.normalizer.normalize(segment, scratch.buffers);
    const bool is_unchanged = normalized.data() == segment.data();
    const char* readable_end = is_unchanged ? text.data() + text.size() : normalized.data() + normalized.size();
    ModelSink sink(*parts_.model, *scratch.model, ids);
    normalized_matcher_.split(
        normalized,
        [&](size_t begin, size_t end) {
          const bool is_text_start = segment_begin == 0 && begin == 0;
          const Piece piece{normalized.substr(begin, end - begin), readable_end, is_text_start};
          run_pre_tokenizers(parts_.pre_tokenizers, piece, sink);
        },
        [&](int32_t id, size_t, size_t) { ids.push_back(id); });
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
  AddedTokenMatcher raw_matcher_;
  AddedTokenMatcher normalized_matcher_;
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
