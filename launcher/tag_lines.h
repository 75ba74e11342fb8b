// What tags and marks say of a text, as JSON.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <vector>

#include "data/tagged_data.h"
#include "data/training_data.h"
#include "models/task_head.h"
#include "tasks/entities.h"

namespace weft {

/// The first token of each word that a text was cut into.
std::vector<int32_t> first_tokens_of_words(const TokenisedWords& tokens);

/// From a tag a word, as many as fit: {"entities": […]} or, of tags that mark none, {"tokens": […], "tags": […]}. An
/// entity has "start", "end" (in characters, the end exclusive), "label" and "text"; it ends with the last token of its
/// last word.
nlohmann::ordered_json tags_json(const std::string& text,
                                 const TokenisedWords& tokens,
                                 std::span<const int32_t> tags,
                                 const TaskHead& head);

/// {"entities": […]}, each with its "score" as well.
nlohmann::ordered_json marks_json(const std::string& text,
                                  const TokenisedWords& tokens,
                                  const std::vector<PredictedMark>& marks,
                                  const TaskHead& head);

/// A list: of each relation "subject" and "object", places as above, and "predicate".
nlohmann::ordered_json relations_json(const std::string& text,
                                      const TokenisedWords& tokens,
                                      std::span<const RowRelation> relations,
                                      const TaskHead& head);

}  // namespace weft
