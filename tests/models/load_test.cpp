#include <gtest/gtest.h>

#include <cstring>

#include "models/small_decoders.h"

namespace weft {
namespace {

using testing::small_decoder;

std::vector<float> values(const Tensor& tensor) {
  return {tensor.data<float>(), tensor.data<float>() + tensor.num_elements()};
}

class Load : public ::testing::Test {
 protected:
  Context context_ = make_cpu_context(1);
  std::unique_ptr<LanguageModel> whole_ = testing::make_random(context_, small_decoder(4, 2), {}, DType::f32);
};

TEST_F(Load, FillsDefinedValuesInPlace) {
  auto model = make_decoder(small_decoder(4, 2), {});
  int64_t total = 0;
  for (const Parameter& parameter : model->parameters().all()) total += parameter.local_shape.num_elements();
  Tensor buffer = context_.zeros({total}, DType::f32);
  int64_t begin = 0;
  for (Parameter& parameter : model->parameters().all()) {
    int64_t end = begin + parameter.local_shape.num_elements();
    parameter.value = buffer.slice(begin, end).reshape(parameter.local_shape);
    begin = end;
  }
  initialise_parameters(context_, *model, {.dtype = DType::f32, .for_training = true}, 17);
  begin = 0;
  for (const Parameter& parameter : whole_->parameters().all()) {
    int64_t end = begin + parameter.local_shape.num_elements();
    EXPECT_EQ(values(buffer.slice(begin, end)), values(parameter.value)) << parameter.name;
    begin = end;
  }
}

TEST_F(Load, ReplacesValuesOfAnotherDType) {
  auto model = testing::make_random(context_, small_decoder(4, 2), {}, DType::bf16);
  initialise_parameters(context_, *model, {.dtype = DType::f32, .for_training = true}, 17);
  for (size_t i = 0; i < whole_->parameters().all().size(); ++i)
    EXPECT_EQ(values(model->parameters().all()[i].value), values(whole_->parameters().all()[i].value));
}

TEST_F(Load, BlockByBlockGivesTheSame) {
  auto model = make_decoder(small_decoder(4, 2), {});
  for (int64_t block : {int64_t{1}, kOuterBlock, int64_t{2}, int64_t{0}}) {
    LoadOptions options{.dtype = DType::f32, .for_training = true};
    options.block = block;
    initialise_parameters(context_, *model, options, 17);
    for (const Parameter& parameter : model->parameters().all()) {
      if (parameter.block == block) {
        EXPECT_TRUE(parameter.value.defined());
      }
    }
    if (block == 1) {
      EXPECT_FALSE(model->parameters().find("model.norm.weight")->value.defined());
    }
  }
  for (size_t i = 0; i < whole_->parameters().all().size(); ++i)
    EXPECT_EQ(values(model->parameters().all()[i].value), values(whole_->parameters().all()[i].value));
}

}  // namespace
}  // namespace weft
