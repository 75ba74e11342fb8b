// GPLinker against bert4keras3 (make_relation_golden.py).
#include "tasks/relations.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <tuple>

#include "autograd/tape.h"
#include "support/paths.h"

namespace weft {
namespace {

using nlohmann::json;

auto order_of(const RowRelation& one) {
  return std::tie(one.subject_first, one.subject_last, one.label, one.object_first, one.object_last);
}

std::vector<RowRelation> relations_of(const json& lists) {
  std::vector<RowRelation> all;
  for (const json& one : lists) {
    all.push_back({.span = 0,
                   .label = one.at(2),
                   .subject_first = one.at(0),
                   .subject_last = one.at(1),
                   .object_first = one.at(3),
                   .object_last = one.at(4)});
  }
  return all;
}

class Relations : public ::testing::Test {
 protected:
  Relations() {
    std::ifstream file(test_data("tasks/gplinker.json"));
    golden_ = json::parse(file);
    head_ = {.kind = TaskHead::Kind::relations,
             .labels = std::vector<std::string>(golden_.at("predicates").get<size_t>(), "p"),
             .pointer_size = golden_.at("size")};
    for (const json& text : golden_.at("texts")) {
      std::vector<float> values = text.at("outputs");
      outputs_.insert(outputs_.end(), values.begin(), values.end());
    }
    PointerShape shape = relation_shape(head_);
    int64_t width = shape.labels * 2 * shape.size;
    logits_ = context_.empty({static_cast<int64_t>(outputs_.size()) / width, width}, DType::f64);
    logits_.set_values(outputs_.data(), DType::f32);
  }

  Context context_ = make_cpu_context(2);
  json golden_;
  TaskHead head_;
  std::vector<float> outputs_;
  Tensor logits_;
};

TEST_F(Relations, HaveTheLossOfBert4keras) {
  PointerShape shape = relation_shape(head_);
  std::vector<PointerSequence> sequences;
  std::vector<double> expected;
  auto count = static_cast<float>(golden_.at("texts").size());
  for (const json& text : golden_.at("texts")) {
    int64_t begin = sequences.empty() ? 0 : sequences.back().begin + sequences.back().length;
    // The mean over texts of the sum over labels.
    PointerSequence& sequence = sequences.emplace_back(PointerSequence{
        .begin = begin, .length = text.at("length"), .marks = {}, .weight = static_cast<float>(shape.labels) / count});
    for (const RowRelation& one : relations_of(text.at("relations"))) {
      for (const PointerMark& mark : marks_of(one, shape)) sequence.marks.push_back(mark);
    }
    std::vector<double> gradient = text.at("gradient");
    expected.insert(expected.end(), gradient.begin(), gradient.end());
  }
  Tape tape;
  context_.tape = &tape;
  logits_.set_grad_slot(std::make_shared<GradSlot>());
  Tensor loss = pointer_loss(context_, logits_, shape, sequences);
  EXPECT_NEAR(*loss.data<double>(), golden_.at("loss").get<double>(), 1e-5);
  tape.backward(context_, loss);
  const Tensor& gradient = logits_.grad_slot()->tensor;
  ASSERT_EQ(gradient.num_elements(), static_cast<int64_t>(expected.size()));
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(gradient.data<double>()[i], expected[i], 1e-6) << i;
}

TEST_F(Relations, AreThoseThatBert4kerasReads) {
  int64_t begin = 0;
  for (const json& text : golden_.at("texts")) {
    int64_t length = text.at("length");
    std::vector<RowRelation> found = predict_relations(head_, logits_, begin, length);
    std::sort(found.begin(), found.end(), [](const RowRelation& a, const RowRelation& b) {
      return order_of(a) < order_of(b);
    });
    EXPECT_EQ(found, relations_of(text.at("marked")));
    EXPECT_GT(found.size(), 3u);
    begin += length;
  }
}

}  // namespace
}  // namespace weft
