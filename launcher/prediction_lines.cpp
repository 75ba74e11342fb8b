#include "launcher/prediction_lines.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "data/entity_tags.h"
#include "data/text_places.h"
#include "launcher/tag_lines.h"
#include "tokenizer/tokenizer.h"

namespace weft {
namespace {

using Json = nlohmann::ordered_json;

std::string dump(const Json& object) {
  return object.dump(-1, ' ', false, Json::error_handler_t::replace);
}

/// Of logits: each by itself, or together.
std::vector<double> probabilities(const std::vector<float>& logits, bool is_separate) {
  std::vector<double> result;
  float largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (float logit : logits) {
    result.push_back(is_separate ? 1 / (1 + std::exp(-static_cast<double>(logit)))
                                 : std::exp(static_cast<double>(logit) - static_cast<double>(largest)));
    sum += result.back();
  }
  if (!is_separate) std::for_each(result.begin(), result.end(), [&](double& value) { value /= sum; });
  return result;
}

Json names_of(const std::vector<int32_t>& labels, const TaskHead& head) {
  Json names = Json::array();
  for (int32_t label : labels) names.push_back(head.labels[static_cast<size_t>(label)]);
  return names;
}

std::vector<PredictedMark> marks_of(const ExamplePrediction& prediction) {
  std::vector<PredictedMark> marks;
  for (size_t i = 0; i < prediction.marks.size(); ++i) {
    const RowMark& mark = prediction.marks[i];
    marks.push_back({.mark = {mark.label, mark.first, mark.last}, .score = prediction.scores[i]});
  }
  return marks;
}

/// Words first to last, from 0.
Json word_entity(const std::string& label, int32_t first, int32_t last) {
  return {{"label", label}, {"first", first}, {"last", last}};
}

/// A text that comes as words.
Json words_object(const TaggedText& text, const ExamplePrediction& prediction, const PredictionSettings& settings) {
  const TaskHead& head = settings.head;
  Json object = {{"tokens", text.words}};
  if (head.kind != TaskHead::Kind::global_pointer) {
    object["label"] = text.tags;
    object["prediction"] = names_of(prediction.labels, head);
    return object;
  }
  TokenisedWords tokens = tokenise_words(text.words, settings.tokenizer, settings.max_length);
  auto word_of = [&](int32_t token) { return tokens.unit[static_cast<size_t>(token)]; };
  object["label"] = object["prediction"] = object["scores"] = Json::array();
  for (const TaggedEntity& entity : entities_of(text.tags)) {
    object["label"].push_back(word_entity(entity.label, entity.first, entity.last));
  }
  for (const PredictedMark& one : marks_of(prediction)) {
    if (word_of(one.mark.first) < 0 || word_of(one.mark.last) < 0) continue;
    const std::string& label = head.labels[static_cast<size_t>(one.mark.label)];
    object["prediction"].push_back(word_entity(label, word_of(one.mark.first), word_of(one.mark.last)));
    object["scores"].push_back(one.score);
  }
  return object;
}

/// As the data have them.
Json expected_entities(const TaggedText& text) {
  Json entities = Json::array();
  for (const TaggedText::Entity& entity : text.entities) {
    TokenSpan characters = to_characters(text.text, {entity.place})[0];
    entities.push_back({{"start", characters.begin},
                        {"end", characters.end},
                        {"label", entity.label},
                        {"text", text.text.substr(entity.place.begin, entity.place.end - entity.place.begin)}});
  }
  return entities;
}

}  // namespace

std::string prediction_line(const LabelledText& text,
                            const ExamplePrediction& prediction,
                            const PredictionSettings& settings) {
  const TaskHead& head = settings.head;
  Json object;
  object[text.second.empty() ? "text" : "first"] = text.first;
  if (!text.second.empty()) object["second"] = text.second;
  if (head.multilabel) {
    object["label"] = text.labels;
    object["prediction"] = names_of(prediction.labels, head);
  } else {
    object["label"] = text.labels.front();
    object["prediction"] = head.labels[static_cast<size_t>(prediction.labels.front())];
  }
  std::vector<double> scores = probabilities(prediction.scores, head.multilabel);
  for (size_t i = 0; i < scores.size(); ++i) object["scores"][head.labels[i]] = scores[i];
  return dump(object);
}

std::string prediction_line(const TaggedText& text,
                            const ExamplePrediction& prediction,
                            const PredictionSettings& settings) {
  if (text.text.empty()) return dump(words_object(text, prediction, settings));
  TokenisedWords tokens = tokenise_text(text.text, settings.tokenizer, settings.max_length);
  Json found = settings.head.kind == TaskHead::Kind::global_pointer
                   ? marks_json(text.text, tokens, marks_of(prediction), settings.head)
                   : tags_json(text.text, tokens, prediction.labels, settings.head);
  Json object = {{"text", text.text}, {"label", expected_entities(text)}};
  object["prediction"] = found.contains("entities") ? found["entities"] : found;
  return dump(object);
}

std::string prediction_line(const QuestionText& question,
                            const ExamplePrediction& prediction,
                            const PredictionSettings& settings) {
  auto text_of = [&](const TokenSpan& place) { return question.context.substr(place.begin, place.end - place.begin); };
  Json object = {{"question", question.question}, {"context", question.context}, {"label", Json::array()}};
  for (const TokenSpan& answer : question.answers) object["label"].push_back(text_of(answer));
  object["prediction"] = nullptr;
  if (!prediction.marks.empty()) {
    const RowMark& mark = prediction.marks.front();
    std::vector<QuestionWindow> windows =
        make_windows(question.question, question.context, settings.tokenizer, settings.max_length, settings.stride);
    const std::vector<TokenSpan>& places = windows[static_cast<size_t>(mark.span)].places;
    TokenSpan place{places[static_cast<size_t>(mark.first)].begin, places[static_cast<size_t>(mark.last)].end};
    object["prediction"] = text_of(without_outer_spaces(question.context, place));
  }
  object["scores"] = {{"answer", prediction.scores[0]}, {"none", prediction.scores[1]}};
  return dump(object);
}

std::string prediction_line(const RelationText& text,
                            const ExamplePrediction& prediction,
                            const PredictionSettings& settings) {
  TokenisedWords tokens = tokenise_text(text.text, settings.tokenizer, settings.max_length);
  auto entity_at = [&](const TokenSpan& place) { return text.text.substr(place.begin, place.end - place.begin); };
  Json object = {{"text", text.text}, {"label", Json::array()}};
  for (const RelationText::Relation& one : text.relations) {
    object["label"].push_back(
        {{"subject", entity_at(one.subject)}, {"predicate", one.predicate}, {"object", entity_at(one.object)}});
  }
  object["prediction"] = relations_json(text.text, tokens, prediction.relations, settings.head);
  return dump(object);
}

std::string prediction_line(const SimilarTexts& texts,
                            const ExamplePrediction& prediction,
                            const PredictionSettings& /*settings*/) {
  Json object = {{"first", texts.first}, {"second", texts.second}};
  object["label"] = texts.score ? Json(*texts.score) : Json(nullptr);
  object["prediction"] = prediction.scores.front();
  return dump(object);
}

std::string loss_lines(const Tokenizer& tokenizer, const MicroBatch& micro_batch, const ObjectiveLoss& loss) {
  std::string lines;
  std::vector<float> of_tokens = to_floats(loss.token_loss);
  const Batch& batch = micro_batch.batch;
  auto text_of = [&](const std::vector<int32_t>& ids, int64_t begin, int64_t length) {
    return tokenizer.decode(std::span(ids).subspan(static_cast<size_t>(begin), static_cast<size_t>(length)), true);
  };
  for (size_t s = 0; s < batch.sequences.size(); ++s) {
    const BatchSequence& sequence = batch.sequences[s];
    double sum = 0;
    int64_t scored = 0;
    for (int64_t i = sequence.begin; i < sequence.begin + sequence.length; ++i) {
      if (micro_batch.targets[static_cast<size_t>(i)] < 0) continue;
      sum += static_cast<double>(of_tokens[static_cast<size_t>(i)]);
      ++scored;
    }
    if (scored == 0) continue;
    Json object;
    if (!batch.sources.empty()) {
      object["source"] = text_of(batch.source_ids, batch.sources[s].begin, batch.sources[s].length);
    }
    object["text"] = text_of(batch.ids, sequence.begin, sequence.length);
    object["loss"] = sum / static_cast<double>(scored);
    object["tokens"] = scored;
    lines += dump(object) + "\n";
  }
  return lines;
}

std::string answer_line(const WrittenAnswer& answer) {
  return dump({{"prompt", answer.prompt}, {"label", answer.reference}, {"prediction", answer.text}}) + "\n";
}

}  // namespace weft
