#include "tokenizer/tokenizer_document.h"

#include <nlohmann/json.hpp>

#include "core/error.h"

namespace weft {

namespace {

using nlohmann::json;

constexpr size_t kMaxDepth = 64;
// Offsets into the arena are 32 bits wide; published files have at most 35 MB.
constexpr size_t kMaxFileBytes = size_t{1} << 30;

/// Follows the parser: keeps model.vocab and model.merges apart and builds a tree of everything else.
class DocumentBuilder : public nlohmann::json_sax<json> {
 public:
  explicit DocumentBuilder(TokenizerDocument& document) : document_(document), root_(*document.rest) {}

  bool null() override { return add_value(nullptr); }
  bool boolean(bool value) override { return add_value(value); }
  bool number_float(number_float_t value, const string_t&) override {
    return table_ == Table::pieces ? add_score(value) : add_value(value);
  }
  bool binary(binary_t&) override { return false; }

  bool number_integer(number_integer_t value) override { return add_number(value); }
  bool number_unsigned(number_unsigned_t value) override {
    if (table_ == Table::pieces) return add_score(static_cast<double>(value));
    if (value > static_cast<number_unsigned_t>(INT64_MAX)) return refuse("a number above 2^63", key_);
    return add_number(static_cast<number_integer_t>(value));
  }

  bool string(string_t& value) override {
    if (table_ == Table::pieces) return add_piece(value);
    if (table_ != Table::merges) return add_value(std::move(value));
    if (depth_ == kTableDepth + 1) return add_half_merge(value);
    return add_merge(value);
  }

  bool start_object(std::size_t) override {
    if (is_at("vocab")) return start_table(Table::vocabulary);
    return start_container(json::object());
  }
  bool start_array(std::size_t) override {
    if (is_at("merges")) return start_table(Table::merges);
    if (is_at("vocab")) {
      document_.has_scores = true;
      return start_table(Table::pieces);
    }
    if (table_ == Table::merges || table_ == Table::pieces) {
      num_parts_ = 0;
      return ++depth_ <= kTableDepth + 1 || refuse_entry();
    }
    return start_container(json::array());
  }
  bool key(string_t& value) override {
    key_ = std::move(value);
    return true;
  }
  bool end_object() override { return end_container(); }
  bool end_array() override {
    if ((table_ == Table::merges || table_ == Table::pieces) && depth_ == kTableDepth + 1) {
      if (num_parts_ != 2) return refuse_entry();
      --depth_;
      num_parts_ = 0;
      return true;
    }
    return end_container();
  }

  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception& error) override {
    // nlohmann's messages begin with an identifier in brackets.
    const std::string_view message = error.what();
    const size_t begin = message.find("] ");
    fail_input("{}: not valid JSON at byte {}: {}; is the file complete?",
               document_.where,
               position,
               printable(begin == std::string_view::npos ? message : message.substr(begin + 2), 200));
  }

 private:
  enum class Table : uint8_t { none, vocabulary, pieces, merges };
  static constexpr size_t kTableDepth = 3;  // inside {"model": {"vocab": {

  [[nodiscard]] bool refuse(std::string_view what, std::string_view which) const {
    fail_input("{}: {} '{}' cannot be used; the file is damaged", document_.where, what, printable(which));
  }

  [[nodiscard]] bool refuse_entry() const {
    if (table_ == Table::merges) return refuse("merge", std::to_string(document_.merges.size()));
    return refuse("entry of model.vocab", std::to_string(document_.vocabulary.size() - (num_parts_ > 0 ? 1 : 0)));
  }

  bool is_at(std::string_view table_key) const {
    return table_ == Table::none && depth_ == 2 && is_in_model_ && key_ == table_key;
  }

  bool start_table(Table table) {
    table_ = table;
    ++depth_;
    return true;
  }

  bool start_container(json&& container) {
    if (table_ != Table::none) return refuse("an entry of model.vocab or model.merges near", key_);
    if (++depth_ > kMaxDepth) return refuse("nesting deeper than 64 levels at", key_);
    if (depth_ == 2) is_in_model_ = key_ == "model";
    json* added = attach(std::move(container));
    open_.push_back(added);
    return true;
  }

  bool end_container() {
    --depth_;
    if (table_ != Table::none) {
      table_ = Table::none;
    } else {
      open_.pop_back();
      if (depth_ < 2) is_in_model_ = false;
    }
    return true;
  }

  json* attach(json&& value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    json& parent = *open_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return &parent.back();
    }
    json& member = parent[key_];
    member = std::move(value);
    return &member;
  }

  bool add_value(json&& value) {
    if (table_ != Table::none) return refuse("an entry of model.vocab or model.merges near", key_);
    attach(std::move(value));
    return true;
  }

  bool add_number(number_integer_t value) {
    if (table_ == Table::pieces) return add_score(static_cast<double>(value));
    if (table_ != Table::vocabulary) return add_value(value);
    document_.vocabulary.push_back({.text = store(key_), .id = value});
    return true;
  }

  bool add_piece(std::string_view text) {
    if (depth_ != kTableDepth + 1 || num_parts_ != 0) return refuse_entry();
    ++num_parts_;
    document_.vocabulary.push_back({.text = store(text), .id = static_cast<int64_t>(document_.vocabulary.size())});
    return true;
  }

  bool add_score(double score) {
    if (depth_ != kTableDepth + 1 || num_parts_ != 1) return refuse_entry();
    ++num_parts_;
    document_.vocabulary.back().score = score;
    return true;
  }

  bool add_half_merge(std::string_view text) {
    if (++num_parts_ == 1) {
      document_.merges.push_back({.left = store(text), .right = {}});
    } else {
      document_.merges.back().right = store(text);
    }
    return num_parts_ <= 2 || refuse("merge", text);
  }

  bool add_merge(std::string_view text) {
    // Older files begin their merges with a comment.
    if (document_.merges.empty() && text.starts_with("#version")) return true;
    const size_t space = text.find(' ');
    if (space == std::string_view::npos || text.find(' ', space + 1) != std::string_view::npos) {
      return refuse("merge", text);
    }
    document_.merges.push_back({.left = store(text.substr(0, space)), .right = store(text.substr(space + 1))});
    return true;
  }

  TokenizerDocument::Text store(std::string_view text) {
    const TokenizerDocument::Text stored{.offset = static_cast<uint32_t>(document_.arena.size()),
                                         .length = static_cast<uint32_t>(text.size())};
    document_.arena.append(text);
    return stored;
  }

  TokenizerDocument& document_;
  json& root_;
  std::vector<json*> open_;  // the containers around the parser; a parent does not move while a child is open
  std::string key_;
  size_t depth_ = 0;
  bool is_in_model_ = false;
  Table table_ = Table::none;
  int num_parts_ = 0;  // of the merge or entry being read
};

}  // namespace

TokenizerDocument parse_tokenizer_document(std::string_view text, const std::string& where) {
  if (text.size() > kMaxFileBytes)
    fail_input("{}: {} bytes; a tokenizer.json has at most {}", where, text.size(), kMaxFileBytes);
  TokenizerDocument document;
  document.where = where;
  document.rest = std::make_shared<json>();
  document.arena.reserve(text.size() / 2);
  DocumentBuilder builder(document);
  json::sax_parse(text.begin(), text.end(), &builder);
  return document;
}

}  // namespace weft
