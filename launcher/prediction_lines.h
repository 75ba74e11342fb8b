// What an evaluation predicted for an example, as a line of JSON: the input, "label", "prediction" and "scores".
#pragma once

#include <cstdint>
#include <string>

#include "data/labelled_data.h"
#include "data/question_data.h"
#include "data/relation_data.h"
#include "data/similar_data.h"
#include "data/tagged_data.h"
#include "models/task_head.h"
#include "tasks/objective.h"
#include "train/generated_answers.h"

namespace weft {

class Tokenizer;

/// How examples became rows.
struct PredictionSettings {
  const TaskHead& head;
  const Tokenizer& tokenizer;
  int64_t max_length = 512;
  int64_t stride = 64;  // of a question's windows
};

std::string prediction_line(const LabelledText& text,
                            const ExamplePrediction& prediction,
                            const PredictionSettings& settings);
/// Of tags, or, of a global_pointer, marks.
std::string prediction_line(const TaggedText& text,
                            const ExamplePrediction& prediction,
                            const PredictionSettings& settings);
std::string prediction_line(const QuestionText& question,
                            const ExamplePrediction& prediction,
                            const PredictionSettings& settings);
std::string prediction_line(const RelationText& text,
                            const ExamplePrediction& prediction,
                            const PredictionSettings& settings);
std::string prediction_line(const SimilarTexts& texts,
                            const ExamplePrediction& prediction,
                            const PredictionSettings& settings);

/// Of tokens' losses: a line, with its end, for each text of a micro-batch, its mean loss in it.
std::string loss_lines(const Tokenizer& tokenizer, const MicroBatch& micro_batch, const ObjectiveLoss& loss);

/// Of what a model wrote, with its end.
std::string answer_line(const WrittenAnswer& answer);

}  // namespace weft
