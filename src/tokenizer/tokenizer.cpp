#include "tokenizer/tokenizer.h"

#include <fmt/ranges.h>

#include <array>
#include <filesystem>
#include <initializer_list>

#include "checkpoint/gguf.h"
#include "core/error.h"
#include "core/paths.h"
#include "tokenizer/loaders.h"
#include "tokenizer/rwkv_vocabulary.h"
#include "tokenizer/text_file.h"
#include "tokenizer/text_template.h"
#include "tokenizer/unicode.h"

namespace weft {

namespace {

namespace fs = std::filesystem;

/// What transformers calls the models of fairseq's checkpoints.
constexpr const char* kFairseqModel = "sentencepiece.bpe.model";
constexpr std::array<const char*, 7> kFolderFiles = {"tokenizer.json",
                                                     "vocab.txt",
                                                     "tokenizer.model",
                                                     "spiece.model",
                                                     kFairseqModel,
                                                     "sentencepiece.model",
                                                     "spm.model"};

constexpr const char* kVocabularyJson = "vocab.json";
constexpr const char* kMergesText = "merges.txt";
constexpr std::string_view kRwkvStem = "rwkv_vocab";

/// Of several files that would do, one must be named: copies of one model in several quantisations carry the same
/// tokenizer, but who knows. Empty when there is none.
std::string only_file_in(const fs::path& folder, std::string_view stem, std::string_view extension) {
  std::string found;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(stem) || entry.path().extension() != extension) continue;
    if (!found.empty()) fail_input("{}: holds several {}*{} files; name one of them", folder.string(), stem, extension);
    found = entry.path().string();
  }
  return found;
}

std::string find_tokenizer_file(const fs::path& folder) {
  for (const char* name : kFolderFiles) {
    if (path_exists(folder / name)) return (folder / name).string();
  }
  if (path_exists(folder / kVocabularyJson) && path_exists(folder / kMergesText)) {
    return (folder / kVocabularyJson).string();
  }
  std::string found = only_file_in(folder, kRwkvStem, ".txt");
  if (found.empty()) found = only_file_in(folder, "", ".gguf");
  if (found.empty()) {
    fail_input("{}: no tokenizer here; looked for {}, {} with {}, {}*.txt and *.gguf",
               folder.string(),
               fmt::join(kFolderFiles, ", "),
               kVocabularyJson,
               kMergesText,
               kRwkvStem);
  }
  return found;
}

std::shared_ptr<const Tokenizer> load_text_vocabulary(const fs::path& file, const TokenizerSettings& settings) {
  const std::string text = read_whole_file(file.string());
  const bool is_rwkv = file.filename().string().starts_with(kRwkvStem) || looks_like_rwkv_vocabulary(text);
  return is_rwkv ? load_rwkv_text(text, file.string(), settings) : load_wordpiece_text(text, file.string(), settings);
}

std::shared_ptr<const Tokenizer> load_gpt_files(const fs::path& folder, const TokenizerSettings& settings) {
  const std::string vocabulary_path = (folder / kVocabularyJson).string();
  const std::string merges_path = (folder / kMergesText).string();
  const std::string vocabulary = read_whole_file(vocabulary_path);
  const std::string merges = read_whole_file(merges_path);
  return load_gpt_texts(
      {.vocabulary = vocabulary, .merges = merges, .vocabulary_where = vocabulary_path, .merges_where = merges_path},
      settings);
}

bool is_sentencepiece(const fs::path& file) {
  return file.extension() == ".model" || file.extension() == ".spm";
}

/// Whether a tokenizer.json says "type": "Unigram", which is T5's and ALBERT's kind. Nothing else has that value. Such
/// a file was made from a sentencepiece model and treats some texts otherwise.
bool is_unigram_json(std::string_view text) {
  constexpr std::string_view kValue = "\"Unigram\"";
  for (size_t at = text.find(kValue); at != std::string_view::npos; at = text.find(kValue, at + 1)) {
    const size_t before = text.substr(0, at).find_last_not_of(" \t\r\n");
    if (before != std::string_view::npos && text[before] == ':') return true;
  }
  return false;
}

/// The sentencepiece model that a tokenizer.json was made from, if it lies beside it. Of fairseq's the tokenizer.json
/// alone knows the ids of all families.
std::optional<fs::path> sentencepiece_model_in(const fs::path& folder) {
  for (const char* name : kFolderFiles) {
    if (is_sentencepiece(name) && std::string_view(name) != kFairseqModel && path_exists(folder / name))
      return folder / name;
  }
  return std::nullopt;
}

std::shared_ptr<const Tokenizer> load_tokenizer_file(const fs::path& file);

std::shared_ptr<const Tokenizer> load_json_file(const fs::path& file, const TokenizerSettings& settings) {
  const std::string text = read_whole_file(file.string());
  if (is_unigram_json(text)) {
    if (const auto model = sentencepiece_model_in(file.parent_path())) return load_tokenizer_file(*model);
  }
  return load_tokenizer_json_text(text, file.string(), settings);
}

std::shared_ptr<const Tokenizer> load_sentencepiece_file(const fs::path& file, const TokenizerSettings& settings) {
  const bool is_fairseq = file.filename() == kFairseqModel;
  if (is_fairseq && !settings.tokenizer_class.empty() && !settings.tokenizer_class.starts_with("XLMRoberta")) {
    fail_input("{}: the ids of a {} are not known without a tokenizer.json; put the model's beside it",
               file.string(),
               printable(settings.tokenizer_class));
  }
  return load_sentencepiece_bytes(
      read_whole_file(file.string()), file.string(), settings, is_fairseq ? PieceIds::fairseq : PieceIds::own);
}

TokenizerSettings read_settings_beside(const fs::path& file) {
  TokenizerSettings settings = read_tokenizer_settings(file.has_parent_path() ? file.parent_path().string() : ".");
  if (settings.segments_words && file.extension() != ".txt") {
    fail_input("{}: tokenizer_config.json asks for \"pre_tokenize\": \"words\", which goes with a vocab.txt only",
               file.string());
  }
  return settings;
}

std::shared_ptr<const Tokenizer> load_tokenizer_file(const fs::path& file) {
  const std::string extension = file.extension().string();
  if (extension == ".gguf") return load_gguf_tokenizer(*read_gguf_metadata(file.string()));
  if (file.filename() == kVocabularyJson || file.filename() == kMergesText) {
    return load_gpt_files(file.parent_path(), read_settings_beside(file));
  }
  if (extension == ".json") return load_json_file(file, read_settings_beside(file));
  if (is_sentencepiece(file)) {
    return load_sentencepiece_file(file, read_settings_beside(file));
  }
  if (extension == ".txt") return load_text_vocabulary(file, read_settings_beside(file));
  fail_input(
      "{}: not a tokenizer that Weft knows; expected a folder, tokenizer.json, a vocabulary .txt of WordPiece or RWKV, "
      "vocab.json with merges.txt, a sentencepiece .model or a .gguf file",
      file.string());
}

/// Files of weights alone, beside which the tokenizer lies. A TensorFlow checkpoint is named without its ".index".
bool is_weights(const fs::path& file) {
  if (!path_exists(file)) return path_exists(file.string() + ".index");
  const fs::path extension = file.extension();
  return extension == ".safetensors" || extension == ".h5" || extension == ".index" || extension == ".pth" ||
         extension == ".pt" || extension == ".bin";
}

std::optional<int32_t> first_known(const Tokenizer& tokenizer, std::initializer_list<std::string_view> names) {
  for (const std::string_view name : names) {
    if (const auto id = tokenizer.token_to_id(name)) return id;
  }
  return std::nullopt;
}

}  // namespace

std::shared_ptr<const Tokenizer> load_tokenizer(const std::string& path) {
  const fs::path file(path);
  if (is_weights(file)) {
    return load_tokenizer_file(find_tokenizer_file(file.has_parent_path() ? file.parent_path() : fs::path(".")));
  }
  if (!path_exists(file)) fail_input("{}: no such file or folder", path);
  if (is_folder(file)) return load_tokenizer_file(find_tokenizer_file(file));
  return load_tokenizer_file(file);
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special_tokens) const {
  const std::unique_ptr<TokenDecoder> decoder = start_decoding(skip_special_tokens);
  std::string text;
  for (const int32_t id : ids) decoder->push(id, text);
  decoder->finish(text);
  return text;
}

PairEncoding Tokenizer::encode_pair(std::string_view first,
                                    std::optional<std::string_view> second,
                                    const EncodePairOptions& options) const {
  const auto encode_text = [&](std::string_view text) {
    TextTokens tokens;
    if (options.finds_places) {
      tokens.spans = encode_with_offsets(text, tokens.ids, options.specials);
    } else {
      tokens.ids = encode(text, false, options.specials);
    }
    return tokens;
  };
  const bool is_pair = second.has_value();
  TextTemplate pieces = text_template(is_pair);
  if (!options.adds_special_tokens) {
    std::erase_if(pieces, [](const auto& piece) { return piece.kind == TemplatePiece::Kind::special_token; });
  }
  const TextTokens first_tokens = encode_text(first);
  if (!is_pair) return fill_template(pieces, {.first = first_tokens}, options);
  const TextTokens second_tokens = encode_text(*second);
  return fill_template(pieces, {.first = first_tokens, .second = &second_tokens}, options);
}

std::vector<int32_t> Tokenizer::encode_beginning(std::string_view text) const {
  std::vector<int32_t> ids = encode(text, true);
  const TextTemplate pieces = text_template(false);
  auto is_special = [](const TemplatePiece& piece) { return piece.kind == TemplatePiece::Kind::special_token; };
  auto closing = std::find_if_not(pieces.rbegin(), pieces.rend(), is_special) - pieces.rbegin();
  ids.resize(ids.size() - static_cast<size_t>(closing));
  return ids;
}

TextTemplate Tokenizer::text_template(bool is_pair) const {
  TextTemplate pieces;
  if (bos_id()) pieces.push_back({.id = *bos_id()});
  pieces.push_back({.kind = TemplatePiece::Kind::first_text});
  if (is_pair) pieces.push_back({.kind = TemplatePiece::Kind::second_text, .segment = 1});
  return pieces;
}

std::vector<TokenSpan> Tokenizer::encode_with_offsets(std::string_view, std::vector<int32_t>&, SpecialsInText) const {
  fail_input("a tokenizer of type {} cannot say where in the text its tokens come from", type());
}

std::optional<int32_t> Tokenizer::pad_id() const {
  return first_known(*this, {"[PAD]", "<pad>"});
}
std::optional<int32_t> Tokenizer::unk_id() const {
  return first_known(*this, {"[UNK]", "<unk>"});
}
std::optional<int32_t> Tokenizer::mask_id() const {
  return first_known(*this, {"[MASK]", "<mask>"});
}
std::optional<int32_t> Tokenizer::cls_id() const {
  return first_known(*this, {"[CLS]", "<s>"});
}
std::optional<int32_t> Tokenizer::sep_id() const {
  return first_known(*this, {"[SEP]", "</s>"});
}

std::vector<TokenSpan> to_characters(std::string_view text, const std::vector<TokenSpan>& spans) {
  std::vector<size_t> index_of_byte;  // and that of the end
  index_of_byte.reserve(text.size() + 1);
  size_t num_characters = 0;
  for (size_t begin = 0; begin < text.size(); ++num_characters) {
    const auto length = static_cast<size_t>(read_utf8(text.substr(begin)).length);
    index_of_byte.insert(index_of_byte.end(), length, num_characters);
    begin += length;
  }
  index_of_byte.push_back(num_characters);
  std::vector<TokenSpan> characters;
  characters.reserve(spans.size());
  for (const TokenSpan& span : spans) {
    // A character of which the span has a part counts.
    const size_t begin = index_of_byte.at(span.begin);
    characters.push_back({begin, span.end > span.begin ? index_of_byte.at(span.end - 1) + 1 : begin});
  }
  return characters;
}

StreamingDecoder::StreamingDecoder(const Tokenizer& tokenizer, bool skip_special_tokens)
    : decoder_(tokenizer.start_decoding(skip_special_tokens)) {}

std::string StreamingDecoder::push(int32_t id) {
  std::string text;
  decoder_->push(id, text);
  return text;
}

std::string StreamingDecoder::finish() {
  std::string text;
  decoder_->finish(text);
  return text;
}

}  // namespace weft
