// Sentencepiece models (.model, spiece.model). Debian's library has known memory-safety bugs on hostile models and is
// slow on BPE, so the models are run by our own code; the tests compare it with the library.
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include <cmath>
#include <unordered_set>

#include "core/error.h"
#include "tokenizer/bpe.h"
#include "tokenizer/fairseq_pieces.h"
#include "tokenizer/loaders.h"
#include "tokenizer/score_merges.h"
#include "tokenizer/scratch_pool.h"
#include "tokenizer/sentencepiece_model.pb.h"
#include "tokenizer/sentencepiece_normalizer.h"
#include "tokenizer/text_template.h"
#include "tokenizer/unicode.h"
#include "tokenizer/unigram.h"
#include "tokenizer/vocabulary.h"

namespace weft {

namespace {

using weft::sentencepiece::Model;
using weft::sentencepiece::Trainer;
using Piece = Model::Piece;

// Positions in a text are 32 bits wide.
constexpr size_t kMaxTextBytes = size_t{1} << 30;
constexpr std::string_view kSpaceSymbol = "\xE2\x96\x81";

/// -1 unless the piece is spelled <0xXX>.
int byte_of_piece(std::string_view piece) {
  static constexpr std::string_view kDigits = "0123456789ABCDEF";
  if (piece.size() != 6 || !piece.starts_with("<0x") || piece[5] != '>') return -1;
  const size_t high = kDigits.find(piece[3]);
  const size_t low = kDigits.find(piece[4]);
  if (high == std::string_view::npos || low == std::string_view::npos) return -1;
  return static_cast<int>(high * 16 + low);
}

void validate_piece(const Piece& piece, int index, const std::string& where) {
  const std::string& text = piece.piece();
  if (text.empty() || text.size() > kMaxPieceBytes || text.find('\0') != std::string::npos || !is_valid_utf8(text)) {
    fail_input("{}: piece {} ('{}', {} bytes) is not 1 to {} bytes of text; the file is damaged",
               where,
               index,
               printable(text, 40),
               text.size(),
               kMaxPieceBytes);
  }
  if (!std::isfinite(piece.score()) || std::fabs(piece.score()) > kMaxPieceScore) {
    fail_input("{}: piece {} '{}' has score {}; the file is damaged", where, index, printable(text), piece.score());
  }
  if (piece.type() == Piece::BYTE && byte_of_piece(text) < 0) {
    fail_input("{}: byte piece {} is spelled '{}', expected <0x00> to <0xFF>", where, index, printable(text));
  }
}

void validate_pieces(const Model& model, const std::string& where) {
  std::unordered_set<std::string_view> seen;
  int num_of_type[Piece::Type_MAX + 1] = {};
  size_t num_bytes = 0;
  for (int i = 0; i < model.pieces_size(); ++i) {
    const Piece& piece = model.pieces(i);
    validate_piece(piece, i, where);
    ++num_of_type[piece.type()];
    num_bytes += piece.piece().size();
    if (!seen.insert(piece.piece()).second) {
      fail_input("{}: piece {} '{}' occurs twice", where, i, printable(piece.piece()));
    }
  }
  if (num_bytes >= kMaxVocabularyBytes) {
    fail_input("{}: pieces of {} bytes in all; the limit is {}", where, num_bytes, kMaxVocabularyBytes - 1);
  }
  if (num_of_type[Piece::UNUSED] != 0) fail_input("{}: a model with pieces of type UNUSED is not supported", where);
  if (num_of_type[Piece::UNKNOWN] != 1 || num_of_type[Piece::NORMAL] == 0) {
    fail_input("{}: {} unknown pieces and {} normal ones, expected 1 and at least 1",
               where,
               num_of_type[Piece::UNKNOWN],
               num_of_type[Piece::NORMAL]);
  }
  const int expected_bytes = model.trainer().byte_fallback() ? 256 : 0;
  if (num_of_type[Piece::BYTE] != expected_bytes) {
    fail_input("{}: {} byte pieces, expected {}", where, num_of_type[Piece::BYTE], expected_bytes);
  }
}

Model parse_model(std::string_view bytes, PieceIds ids, const std::string& where) {
  Model model;
  google::protobuf::io::ArrayInputStream stream(bytes.data(), static_cast<int>(bytes.size()));
  if (!model.ParseFromZeroCopyStream(&stream)) {
    fail_input("{}: not a sentencepiece model; is the file complete?", where);
  }
  const Trainer::ModelType type = model.trainer().model_type();
  // One of characters has nothing to merge: as BPE runs it.
  if (type != Trainer::UNIGRAM && type != Trainer::BPE && type != Trainer::CHAR) {
    fail_input("{}: sentencepiece model of type {} is not supported; known are UNIGRAM (1), BPE (2) and CHAR (4)",
               where,
               static_cast<int>(type));
  }
  if (model.trainer().treat_whitespace_as_suffix() || !model.denormalizer().precompiled_charsmap().empty() ||
      !model.normalizer().escape_whitespaces()) {
    fail_input("{}: a model with treat_whitespace_as_suffix, a denormalizer or unescaped spaces is not supported",
               where);
  }
  if (ids == PieceIds::fairseq) put_in_fairseq_order(model, where);
  validate_pieces(model, where);
  return model;
}

struct DecodeRules {
  std::string unknown_surface;
  bool drops_first_space = false;
  bool drops_all_first_spaces = false;
};

/// What the library's Decode does, a piece at a time.
class SentencepieceDecoder : public TokenDecoder {
 public:
  SentencepieceDecoder(const Model& model, const DecodeRules& rules) : model_(model), rules_(rules) {}

  void push(int32_t id, std::string& out) override {
    if (id < 0 || id >= model_.pieces_size()) return;
    const Piece& piece = model_.pieces(id);
    if (piece.type() == Piece::BYTE) {
      bytes_.push_back(static_cast<char>(byte_of_piece(piece.piece())));
      give_bytes(false, out);
      return;
    }
    give_bytes(true, out);
    const bool may_drop_space = !has_text_ && !dropped_space_;
    dropped_space_ = false;
    if (piece.type() == Piece::CONTROL) return;
    if (piece.type() == Piece::UNKNOWN) return give(rules_.unknown_surface, out);
    std::string_view text = piece.piece();
    if (may_drop_space && rules_.drops_first_space && text.starts_with(kSpaceSymbol)) {
      text.remove_prefix(kSpaceSymbol.size());
      dropped_space_ = !rules_.drops_all_first_spaces;
    }
    give_unescaped(text, out);
  }

  void finish(std::string& out) override { give_bytes(true, out); }

 private:
  void give(std::string_view text, std::string& out) {
    has_text_ = has_text_ || !text.empty();
    out.append(text);
  }

  void give_unescaped(std::string_view text, std::string& out) {
    while (!text.empty()) {
      const size_t symbol = text.find(kSpaceSymbol);
      give(text.substr(0, symbol), out);
      if (symbol == std::string_view::npos) return;
      give(" ", out);
      text.remove_prefix(symbol + kSpaceSymbol.size());
    }
  }

  /// One U+FFFD for each byte that belongs to no character; the last bytes may wait for more.
  void give_bytes(bool is_end, std::string& out) {
    std::string_view rest = bytes_;
    while (!rest.empty()) {
      const Utf8Character character = read_utf8(rest);
      if (character.status == Utf8Status::incomplete && !is_end) break;
      const bool is_valid = character.status == Utf8Status::valid;
      const size_t length = is_valid ? static_cast<size_t>(character.length) : 1;
      give(is_valid ? rest.substr(0, length) : kReplacementCharacter, out);
      rest.remove_prefix(length);
    }
    bytes_.erase(0, bytes_.size() - rest.size());
  }

  const Model& model_;
  const DecodeRules& rules_;
  std::string bytes_;
  bool has_text_ = false;
  bool dropped_space_ = false;  // by the piece before
};

AddedTokenMatcher user_defined_pieces(const Model& model, const std::string& where) {
  std::vector<AddedToken> tokens;
  for (int i = 0; i < model.pieces_size(); ++i) {
    if (model.pieces(i).type() == Piece::USER_DEFINED) tokens.push_back({.content = model.pieces(i).piece(), .id = i});
  }
  return AddedTokenMatcher(std::move(tokens), where);
}

std::unique_ptr<WordModel> make_unigram(const Model& model, const Vocabulary& vocabulary) {
  std::vector<UnigramPiece> pieces;
  std::vector<int32_t> byte_ids(model.trainer().byte_fallback() ? 256 : 0);
  int32_t unknown_id = 0;
  for (int i = 0; i < model.pieces_size(); ++i) {
    const Piece& piece = model.pieces(i);
    const bool is_user_defined = piece.type() == Piece::USER_DEFINED;
    if (piece.type() == Piece::NORMAL || is_user_defined) {
      pieces.push_back({vocabulary.token(i), i, piece.score(), is_user_defined});
    } else if (piece.type() == Piece::BYTE) {
      byte_ids[static_cast<size_t>(byte_of_piece(piece.piece()))] = i;
    } else if (piece.type() == Piece::UNKNOWN) {
      unknown_id = i;
    }
  }
  return std::make_unique<UnigramModel>(pieces,
                                        UnigramOptions{.unknown_id = unknown_id, .byte_ids = std::move(byte_ids)});
}

std::unique_ptr<WordModel> make_bpe(const Model& model, const Vocabulary& vocabulary) {
  std::vector<double> scores;
  std::vector<bool> is_mergeable;
  BpeOptions options{.byte_fallback = model.trainer().byte_fallback(), .fuse_unknown = true};
  for (const Piece& piece : model.pieces()) {
    scores.push_back(piece.score());
    is_mergeable.push_back(piece.type() == Piece::NORMAL);
    if (piece.type() == Piece::UNKNOWN) options.unknown_token = piece.piece();
  }
  return std::make_unique<BpeModel>(
      vocabulary, merges_from_scores(vocabulary, scores, is_mergeable), std::move(options));
}

std::vector<AddedToken> control_pieces(const Model& model, bool is_fairseq) {
  std::vector<AddedToken> tokens;
  for (int i = 0; i < model.pieces_size(); ++i) {
    const std::string& piece = model.pieces(i).piece();
    if (model.pieces(i).type() == Piece::CONTROL) {
      tokens.push_back({.content = piece, .id = i, .is_special = true, .lstrip = is_fairseq && piece == "<mask>"});
    }
  }
  return tokens;
}

class SentencepieceTokenizer : public Tokenizer {
 public:
  using Tokenizer::encode;

  SentencepieceTokenizer(Model model, PieceIds ids, const std::string& where, const TokenizerSettings& settings)
      : model_(std::move(model)),
        is_fairseq_(ids == PieceIds::fairseq),
        rules_(decode_rules(model_)),
        vocabulary_(static_cast<size_t>(model_.pieces_size())),
        user_defined_(user_defined_pieces(model_, where)),
        normalizer_(Charsmap(model_.normalizer().precompiled_charsmap(), where),
                    user_defined_,
                    {.adds_dummy_prefix = model_.normalizer().add_dummy_prefix(),
                     .removes_extra_spaces = model_.normalizer().remove_extra_whitespaces()}),
        chat_template_(settings.chat_template) {
    for (int i = 0; i < model_.pieces_size(); ++i) vocabulary_.add(model_.pieces(i).piece(), i);
    encoder_ = is_unigram() ? make_unigram(model_, vocabulary_) : make_bpe(model_, vocabulary_);
    control_ = AddedTokenMatcher(control_pieces(model_, is_fairseq_), where);
    bos_id_ = control_id(model_.trainer().bos_piece());
    find_ids_round_texts(settings, where);
    const VocabularyView view{.find = [&](std::string_view token) { return token_to_id(token); },
                              .is_special = [&](int32_t id) { return is_special(id); },
                              .size = vocab_size()};
    TokenizerSettings ends = settings;
    if (control_id(model_.trainer().eos_piece())) ends.end_tokens.push_back(model_.trainer().eos_piece());
    end_ids_ = resolve_end_ids(ends, view);
  }

  std::string_view type() const override { return is_unigram() ? "unigram" : "sentencepiece_bpe"; }
  int32_t vocab_size() const override { return model_.pieces_size(); }

  std::vector<int32_t> encode(std::string_view text, bool add_special_tokens, SpecialsInText specials) const override {
    if (text.size() > kMaxTextBytes) fail_input("a text of {} bytes; at most {} at a time", text.size(), kMaxTextBytes);
    std::vector<int32_t> ids;
    if (add_special_tokens && before_id_) ids.push_back(*before_id_);
    std::unique_ptr<ModelScratch> scratch = pool_.take([&] { return encoder_->make_scratch(); });
    if (specials == SpecialsInText::recognised) {
      control_.split(
          text,
          [&](size_t begin, size_t end) { encode_segment(text.substr(begin, end - begin), *scratch, ids); },
          [&](int32_t id, size_t, size_t) { ids.push_back(id); });
    } else {
      encode_segment(text, *scratch, ids);
    }
    pool_.give_back(std::move(scratch));
    if (add_special_tokens && after_id_) ids.push_back(*after_id_);
    return ids;
  }

  std::vector<TokenSpan> encode_with_offsets(std::string_view text,
                                             std::vector<int32_t>& ids,
                                             SpecialsInText specials) const override {
    if (text.size() > kMaxTextBytes) fail_input("a text of {} bytes; at most {} at a time", text.size(), kMaxTextBytes);
    ids.clear();
    std::vector<TokenSpan> spans;
    const auto add_segment = [&](size_t begin, size_t end) { encode_with_spans(text, {begin, end}, ids, spans); };
    if (specials == SpecialsInText::recognised) {
      control_.split(text, add_segment, [&](int32_t id, size_t begin, size_t end) {
        ids.push_back(id);
        spans.push_back({begin, end});
      });
    } else {
      add_segment(0, text.size());
    }
    return spans;
  }

  std::unique_ptr<TokenDecoder> start_decoding(bool) const override {
    return std::make_unique<SentencepieceDecoder>(model_, rules_);
  }

  std::optional<int32_t> token_to_id(std::string_view token) const override {
    const int32_t id = vocabulary_.find(token);
    return id < 0 ? std::nullopt : std::optional(id);
  }
  std::string id_to_token(int32_t id) const override { return std::string(vocabulary_.token(id)); }
  bool is_special(int32_t id) const override {
    return id >= 0 && id < model_.pieces_size() && model_.pieces(id).type() == Piece::CONTROL;
  }
  std::optional<int32_t> bos_id() const override { return bos_id_; }
  const std::vector<int32_t>& end_ids() const override { return end_ids_; }
  const std::string& chat_template() const override { return chat_template_; }

 protected:
  TextTemplate text_template(bool is_pair) const override {
    if (is_fairseq_ && is_pair) return roberta_pair_template(*before_id_, *after_id_);
    TextTemplate pieces;
    if (before_id_) pieces.push_back({.id = *before_id_});
    pieces.push_back({.kind = TemplatePiece::Kind::first_text});
    if (after_id_) pieces.push_back({.id = *after_id_});
    if (is_pair) pieces.push_back({.kind = TemplatePiece::Kind::second_text, .segment = 1});
    if (is_pair && after_id_) pieces.push_back({.id = *after_id_, .segment = 1});
    return pieces;
  }

 private:
  static DecodeRules decode_rules(const Model& model) {
    const bool removes_spaces = model.normalizer().remove_extra_whitespaces();
    return {.unknown_surface = model.trainer().unk_surface(),
            .drops_first_space = model.normalizer().add_dummy_prefix() || removes_spaces,
            .drops_all_first_spaces = removes_spaces};
  }

  /// ALBERT's and DeBERTa's models bring [CLS] and [SEP] along; T5's begin with nothing and end with </s>; those of
  /// language models begin with <s>.
  void find_ids_round_texts(const TokenizerSettings& settings, const std::string& where) {
    const auto cls = control_id("[CLS]");
    const auto sep = control_id("[SEP]");
    const auto eos = control_id(model_.trainer().eos_piece());
    if (is_fairseq_) {
      before_id_ = bos_id_;
      after_id_ = eos;
      return;
    }
    const bool is_encoder = cls && sep;
    const std::string_view name = settings.tokenizer_class;
    const bool is_t5 = !bos_id_ || name.starts_with("T5Tokenizer") || name.starts_with("MT5Tokenizer");
    if (settings.add_bos_token.value_or(is_encoder || !is_t5)) before_id_ = is_encoder ? cls : bos_id_;
    if (settings.add_eos_token.value_or(is_encoder || is_t5)) after_id_ = is_encoder ? sep : eos;
    if (settings.add_bos_token.value_or(false) && !before_id_) {
      fail_input("{}: tokenizer_config.json asks for add_bos_token, but the model has no begin piece", where);
    }
    if (settings.add_eos_token.value_or(false) && !after_id_) {
      fail_input("{}: tokenizer_config.json asks for add_eos_token, but the model has no end piece", where);
    }
  }

  void encode_segment(std::string_view text, ModelScratch& scratch, std::vector<int32_t>& ids) const {
    const std::string normalized = normalizer_.normalize(text);
    const char* readable_end = normalized.data() + normalized.size();
    if (is_unigram()) {
      encoder_->encode(normalized, readable_end, scratch, ids);
      return;
    }
    user_defined_.split(
        normalized,
        [&](size_t begin, size_t end) {
          encoder_->encode(std::string_view(normalized).substr(begin, end - begin), readable_end, scratch, ids);
        },
        [&](int32_t id, size_t, size_t) { ids.push_back(id); });
  }

  /// Of a segment of the text.
  void encode_with_spans(std::string_view text,
                         TokenSpan segment,
                         std::vector<int32_t>& ids,
                         std::vector<TokenSpan>& spans) const {
    AlignedText normalized = normalizer_.normalize_aligned(text.substr(segment.begin, segment.end - segment.begin));
    for (uint32_t& source : normalized.sources) source += static_cast<uint32_t>(segment.begin);
    const uint32_t* sources = normalized.sources.data();
    const auto encode_word = [&](size_t begin, size_t end) {
      const size_t num_spans = spans.size();
      encoder_->encode_with_spans(std::string_view(normalized.bytes).substr(begin, end - begin), ids, spans);
      for (size_t i = num_spans; i < spans.size(); ++i) {
        spans[i] = original_span(text, sources + begin, spans[i].begin, spans[i].end);
      }
    };
    if (is_unigram()) return encode_word(0, normalized.bytes.size());
    user_defined_.split(normalized.bytes, encode_word, [&](int32_t id, size_t begin, size_t end) {
      ids.push_back(id);
      spans.push_back(original_span(text, sources, begin, end));
    });
  }

  bool is_unigram() const { return model_.trainer().model_type() == Trainer::UNIGRAM; }

  std::optional<int32_t> control_id(const std::string& piece) const {
    const int32_t id = vocabulary_.find(piece);
    return id >= 0 && is_special(id) ? std::optional(id) : std::nullopt;
  }

  Model model_;
  bool is_fairseq_;
  DecodeRules rules_;
  Vocabulary vocabulary_;
  AddedTokenMatcher user_defined_;
  SentencepieceNormalizer normalizer_;
  std::unique_ptr<WordModel> encoder_;
  AddedTokenMatcher control_;
  std::optional<int32_t> before_id_;  // round a text when special tokens are asked for
  std::optional<int32_t> after_id_;
  std::optional<int32_t> bos_id_;
  std::vector<int32_t> end_ids_;
  std::string chat_template_;
  mutable ScratchPool<ModelScratch> pool_;
};

}  // namespace

std::shared_ptr<const Tokenizer> load_sentencepiece_bytes(std::string_view bytes,
                                                          const std::string& where,
                                                          const TokenizerSettings& settings,
                                                          PieceIds ids) {
  return std::make_shared<SentencepieceTokenizer>(parse_model(bytes, ids, where), ids, where, settings);
}

}  // namespace weft
