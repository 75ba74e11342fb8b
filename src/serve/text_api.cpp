#include "serve/text_api.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>
#include <string_view>

#include "core/error.h"
#include "models/model_config.h"
#include "serve/request_fields.h"
#include "tokenizer/base64.h"

namespace weft {

namespace {

using OrderedJson = nlohmann::ordered_json;
using Json = nlohmann::json;

constexpr size_t kMaxTexts = 2048;

int64_t count_tokens(const std::vector<TokenisedText>& texts) {
  int64_t count = 0;
  for (const TokenisedText& text : texts) count += std::ssize(text.ids);
  return count;
}

/// Ids of a client's are taken as they are.
TokenisedText read_text(const Json& input, size_t index, bool is_cut, const ServedEncoder& served) {
  TokenisedText text;
  if (input.is_string()) {
    text = tokenise_text(*served.tokenizer, input.get<std::string>(), std::nullopt, is_cut ? served.max_length : 0);
  } else {
    text.ids = read_ids(input, "input");
    for (int32_t id : text.ids) {
      if (id >= 0 && id < served.info->vocab_size) continue;
      fail_input("'input' {} holds the token id {}, the model's are 0 to {}", index, id, served.info->vocab_size - 1);
    }
    if (is_cut && served.max_length > 0 && std::ssize(text.ids) > served.max_length) {
      text.ids.resize(static_cast<size_t>(served.max_length));
    }
  }
  if (text.ids.empty()) fail_input("'input' {} has no tokens", index);
  if (served.max_length > 0 && std::ssize(text.ids) > served.max_length) {
    fail_input("'input' {} has {} tokens, the model takes {}; give a shorter one, or \"truncate\": true",
               index,
               text.ids.size(),
               served.max_length);
  }
  return text;
}

Json as_vector(const std::vector<float>& values, bool is_base64) {
  if (!is_base64) {
    std::vector<double> numbers(values.size());
    std::ranges::transform(values, numbers.begin(), as_written);
    return numbers;
  }
  static_assert(std::endian::native == std::endian::little);
  return encode_base64({reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)});
}

OrderedJson usage(int64_t num_tokens) {
  return {{"prompt_tokens", num_tokens}, {"total_tokens", num_tokens}};
}

/// A string, or an object with "text".
std::string read_document(const Json& document) {
  if (document.is_string()) return document.get<std::string>();
  bool is_usable = document.is_object() && document.contains("text") && document["text"].is_string();
  if (!is_usable) fail_input("'documents' must be a list of strings, or of objects with 'text'");
  return document["text"].get<std::string>();
}

}  // namespace

EmbeddingRequest read_embedding_request(const std::string& body, const ServedEncoder& served) {
  RequestFields fields(body);
  EmbeddingRequest request;
  bool is_cut = fields.boolean("truncate", false);
  const Json& input = fields.require("input");
  bool is_several = input.is_array() && (input.empty() || !input.front().is_number());
  const Json list = is_several ? input : Json::array({input});
  if (list.empty() || list.size() > kMaxTexts) {
    fail_input("'input' holds {} texts, expected 1 to {}", list.size(), kMaxTexts);
  }
  for (const Json& one : list) request.texts.push_back(read_text(one, request.texts.size(), is_cut, served));
  request.num_tokens = count_tokens(request.texts);
  request.dimensions = fields.integer("dimensions", served.info->hidden_size, 1, served.info->hidden_size);
  if (const Json* format = fields.find("encoding_format")) {
    if (*format != "float" && *format != "base64") fail_input("'encoding_format' must be \"float\" or \"base64\"");
    request.is_base64 = *format == "base64";
  }
  fields.pass_over({"model", "user"});
  fields.refuse_unknown();
  return request;
}

OrderedJson embedding_answer(const EmbeddingRequest& request,
                             const ServedEncoder& served,
                             std::span<const float> vectors) {
  auto width = static_cast<size_t>(served.info->hidden_size);
  auto kept = static_cast<std::ptrdiff_t>(request.dimensions);
  OrderedJson data = OrderedJson::array();
  for (size_t i = 0; i * width < vectors.size(); ++i) {
    std::span<const float> whole = vectors.subspan(i * width, width);
    std::vector<float> vector(whole.begin(), whole.begin() + kept);
    if (vector.size() < width) normalise(vector.data(), request.dimensions);
    data.push_back({{"object", "embedding"}, {"index", i}, {"embedding", as_vector(vector, request.is_base64)}});
  }
  return {{"object", "list"}, {"data", std::move(data)}, {"model", served.name}, {"usage", usage(request.num_tokens)}};
}

RerankRequest read_rerank_request(const std::string& body, const ServedEncoder& served) {
  RequestFields fields(body);
  RerankRequest request;
  const Json& query = fields.require("query");
  if (!query.is_string()) fail_input("'query' must be a string");
  const Json& documents = fields.require("documents");
  if (!documents.is_array() || documents.empty() || documents.size() > kMaxTexts) {
    fail_input("'documents' must be a list of 1 to {} documents", kMaxTexts);
  }
  for (const Json& document : documents) {
    request.documents.push_back(read_document(document));
    request.pairs.push_back(
        tokenise_text(*served.tokenizer, query.get<std::string>(), request.documents.back(), served.max_length));
  }
  request.num_tokens = count_tokens(request.pairs);
  auto count = std::ssize(request.documents);
  request.top = std::min(count, fields.integer("top_n", count, 1, int64_t{1} << 30));
  request.returns_documents = fields.boolean("return_documents", false);
  fields.pass_over({"model", "user"});
  fields.refuse_unknown();
  return request;
}

OrderedJson rerank_answer(const RerankRequest& request, const ServedEncoder& served, std::span<const float> outputs) {
  std::vector<double> scores;
  for (float output : outputs) {
    auto value = static_cast<double>(output);
    scores.push_back(served.is_score_raw ? value : 1 / (1 + std::exp(-value)));
  }
  std::vector<size_t> order(scores.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, [&](size_t a, size_t b) { return scores[a] > scores[b]; });
  order.resize(static_cast<size_t>(request.top));
  OrderedJson results = OrderedJson::array();
  for (size_t index : order) {
    OrderedJson result = {{"index", index}, {"relevance_score", scores[index]}};
    if (request.returns_documents) result["document"] = {{"text", request.documents[index]}};
    results.push_back(std::move(result));
  }
  return {{"object", "list"},
          {"model", served.name},
          {"results", std::move(results)},
          {"usage", usage(request.num_tokens)}};
}

}  // namespace weft
