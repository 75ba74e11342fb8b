// Every mistake in a config is one line that says where it is, what was found and what to do.
#include <gtest/gtest.h>

#include <fstream>
#include <functional>

#include "config/check_run_config.h"
#include "config/run_config.h"
#include "core/error.h"

namespace weft {
namespace {

struct BadConfig {
  std::string text;
  std::string error;  // from the line on: "2:3: train has …"
};

// Texts that cannot be read.
const std::vector<BadConfig> kUnreadable = {
    {"train {\n  learning_rat: 1e-4\n}", "2:3: train has no field 'learning_rat'; did you mean 'learning_rate'?"},
    {"trian { steps: 1 }",
     "1:1: the config has no field 'trian'; it has extends, model, lora, data, train, precision, parallel, checkpoint, "
     "evaluation, samples, output, task, state_tuning"},
    {"train { optimizer { kind: ADAMV } }", "1:27: train.optimizer.kind cannot be 'ADAMV'; did you mean ADAMW?"},
    {"train { schedule { kind: WAVY_LINE } }",
     "1:26: train.schedule.kind cannot be 'WAVY_LINE'; choose one of COSINE, LINEAR, CONSTANT, POLYNOMIAL, "
     "PIECEWISE_LINEAR"},
    {"train { optimizer { kind: cosine } }",
     "1:27: train.optimizer.kind cannot be 'cosine'; choose one of ADAMW, LAMB, LION, ADAFACTOR, MUON, SGD"},
    {"precision { compute: 7 }", "1:22: precision.compute cannot be '7'; choose one of BF16, F32"},
    {"train { steps: 5.5 }", "1:16: train.steps needs an integer, found 5.5"},
    {"train { steps: many }", "1:16: train.steps needs an integer, found many"},
    {"train { steps: 99999999999999999999 }", "1:16: train.steps is out of range"},
    {"train { seed: -1 }", "1:15: train.seed must be at least 0"},
    {"train { learning_rate: fast }", "1:24: train.learning_rate needs a number, found fast"},
    {R"(train { learning_rate: "1e-4" })", R"(1:24: train.learning_rate needs a number, found "1e-4")"},
    {"model { path: SmolLM2 }", "1:15: model.path needs a text in quotes, found SmolLM2"},
    {"data { shuffle: maybe }", "1:17: data.shuffle needs true or false, found maybe"},
    {"train { steps: 1\n\tsteps: 2 }", "2:9: train.steps is set twice"},
    {"train { steps: 1 }\ntrain { steps: 2 }", "2:1: train is set twice"},
    {"train { steps: 1", "1:17: expected the name of a field, found the end of the text"},
    {"train { steps: 1 }}", "1:19: expected the name of a field, found }"},
    {"train steps: 1", "1:7: train needs { … }, found steps"},
    {"model { path: \"unfinished\n }", "1:26: string literals cannot cross line boundaries"},
    {"data { sources { wieght: 2 } }", "1:18: data.sources has no field 'wieght'; did you mean 'weight'?"},
    {R"(lora { target_modules: ["q_proj", 5] })", "1:35: lora.target_modules needs a text in quotes, found 5"},
    {"lora { layers: [1, 2, x] }", "1:23: lora.layers needs an integer, found x"},
    {"\x01\x02junk", "1:1: invalid control characters encountered in text"},
    {std::string("a\0b", 3), "1:2: invalid control characters encountered in text"},
    {"{{{{{{{{", "1:1: expected the name of a field, found {"},
    {"[weft.config.extra]: 1",
     R"(1:20: extension "weft.config.extra" is not defined or is not an extension of "weft.config.RunConfig")"},
    {"train: 5", "1:8: train needs { … }, found 5"},
    {"train { schedule: COSINE }", "1:19: train.schedule needs { … }, found COSINE"},
    {"train { frobnicate: 1 }",
     "1:9: train has no field 'frobnicate'; it has steps, epochs, batch_size, micro_batch_size, learning_rate, "
     "schedule, optimizer, clip_norm, seed, gradient_checkpointing, checkpoint_every, max_bad_steps, adversarial, "
     "freeze, patience"},
    {"train { steps: }", "1:16: train.steps needs an integer, found }"},
};

const std::vector<BadConfig> kUnreadableJson = {
    {std::string("{}\0{", 4), "1:3: a zero byte; is it a JSON file?"},
    {R"({"train": {"learning_rat": 1}})", "1:12: train has no field 'learning_rat'; did you mean 'learning_rate'?"},
    {"{\n  \"train\": {\"steps\": 5.5}}", "2:22: train.steps needs an integer, found 5.5"},
    {R"({"train": {"steps": "many"}})", "1:22: train.steps needs an integer, found many"},
    {R"({"train": {"optimizer": {"kind": "ADAMV"}}})",
     "1:35: train.optimizer.kind cannot be 'ADAMV'; did you mean ADAMW?"},
    {R"({"train": {"steps": 1, "steps": 2}})", "1:25: train.steps is set twice"},
    {R"({"train": {"steps": 1})", "1:23: syntax error while parsing object - unexpected end of input; expected '}'"},
    {R"({"train": {steps: 1}})",
     R"(1:12: syntax error while parsing object key - invalid literal; last read: '"train": {s'; expected string literal)"},
    {"[1, 2]", "1:1: a config must be a JSON object"},
    {"", "1:1: syntax error while parsing value - unexpected end of input; expected '[', '{', or a literal"},
    {R"({"model": {"path": 5}})", "1:20: model.path needs a text in quotes, found 5"},
    {R"({"data": {"shuffle": "maybe"}})", "1:23: data.shuffle needs true or false, found maybe"},
    {R"({"data": {"sources": [[1]]}})", "1:23: data.sources needs { … }, found ["},
    {R"({"train": null})", "1:11: train needs { … }, found null"},
    {R"({"train": {"steps": 1}} x)",
     "1:25: syntax error while parsing value - invalid literal; last read: '1}} x'; expected end of input"},
    {R"({"model": {"path": {"x": 1}}})", "1:20: model.path needs a text in quotes, found {"},
    {R"({"a b": 1})",
     "1:2: the config has no field 'a b'; it has extends, model, lora, data, train, precision, parallel, checkpoint, "
     "evaluation, samples, output, task, state_tuning"},
    {R"({"train": {"steps": 1,}})",
     "1:23: syntax error while parsing object key - unexpected '}'; expected string literal"},
    {R"("x")", "1:1: a config must be a JSON object"},
};

// Values that cannot be, over a config that could run.
const std::vector<BadConfig> kWrongValues = {
    {"train {\n  epochs: 1\n}", "3:3: train.epochs is 1, but train.steps is 9; give one of the two"},
    {"train {\n  steps: 0\n}", "3:3: train.steps is 0; must be at least 1"},
    {"task {\n  beta: 0.2\n}", "3:3: task.beta is given, but task.kind is LANGUAGE_MODEL; only PREFERENCE has it"},
    {"task {\n  kind: PREFERENCE beta: 0\n}", "3:20: task.beta is 0; must be above 0"},
    {"task {\n  kind: PREFERENCE sft_weight: -1\n}", "3:20: task.sft_weight is -1; must be at least 0"},
    {"task {\n  kind: PREFERENCE label_smoothing: 0.5\n}",
     "3:20: task.label_smoothing is 0.5; must be at least 0 and below 0.5"},
    {"task {\n  kind: PREFERENCE preference_loss: IPO label_smoothing: 0.1\n}",
     "3:41: task.label_smoothing is 0.1, but task.preference_loss is IPO; only SIGMOID has it"},
    {"lora {\n  quantize: INT4\n}\nparallel { zero_stage: 3 }",
     "5:12: parallel.zero_stage is 3, which shares out whole weights, but lora.quantize is INT4; use 0, 1 or 2"},
    {"train {\n  steps: 9223372036854775807\n}", "3:3: train.steps is 9223372036854775807; must be at most 2147483648"},
    {"train {\n  batch_size: 0\n}", "3:3: train.batch_size is 0; must be at least 1"},
    {"train {\n  batch_size: 8 micro_batch_size: 3\n}",
     "3:3: train.batch_size is 8; must be a multiple of train.micro_batch_size, 3"},
    {"train {\n  micro_batch_size: -1\n}", "3:3: train.micro_batch_size is -1; must be at least 0"},
    {"train {\n  learning_rate: 0\n}", "3:3: train.learning_rate is 0; must be above 0"},
    {"train {\n  learning_rate: inf\n}", "3:3: train.learning_rate is inf; must be a finite number"},
    {"train {\n  learning_rate: nan\n}", "3:3: train.learning_rate is nan; must be a finite number"},
    {"train {\n  learning_rate: -1e-4\n}", "3:3: train.learning_rate is -0.0001; must be above 0"},
    {"train {\n  clip_norm: -1\n}", "3:3: train.clip_norm is -1; must be at least 0"},
    {"train {\n  checkpoint_every: 0\n}", "3:3: train.checkpoint_every is 0; must be at least 1"},
    {"train {\n  checkpoint_every: 2\n}",
     "3:3: train.checkpoint_every is 2, but train.gradient_checkpointing is KEEP; only BLOCK counts blocks"},
    {"train {\n  max_bad_steps: 0\n}", "3:3: train.max_bad_steps is 0; must be at least 1"},
    {"train {\n  schedule { warmup_steps: 10 }\n}",
     "3:14: train.schedule.warmup_steps is 10, but train.steps is only 9"},
    {"train {\n  schedule { warmup_steps: -1 }\n}", "3:14: train.schedule.warmup_steps is -1; must be at least 0"},
    {"train {\n  schedule { minimum_factor: 1.5 }\n}",
     "3:14: train.schedule.minimum_factor is 1.5; must be from 0 to 1"},
    {"train {\n  schedule { power: 2 }\n}",
     "3:14: train.schedule.power is given, but train.schedule.kind is COSINE; only POLYNOMIAL has one"},
    {"train {\n  schedule { kind: POLYNOMIAL power: 0 }\n}", "3:31: train.schedule.power is 0; must be above 0"},
    {"train {\n  schedule { points { step: 1 factor: 1 } }\n}",
     "3:3: train.schedule.points are given, but train.schedule.kind is COSINE; only PIECEWISE_LINEAR has points"},
    {"train {\n  schedule { kind: PIECEWISE_LINEAR }\n}",
     "3:3: train.schedule.points are missing; PIECEWISE_LINEAR needs at least one {step: … factor: …}"},
    {"train {\n  schedule {\n  kind: PIECEWISE_LINEAR\n  points { step: 5 factor: 1 }\n  points { step: 5 factor: 0.1 "
     "}\n}\n}",
     "6:12: train.schedule.points[1].step is 5, but the point before is at 5"},
    {"train {\n  schedule { kind: PIECEWISE_LINEAR points { step: 5 } }\n}",
     "3:37: train.schedule.points[0] needs both step and factor"},
    {"train {\n  schedule { kind: PIECEWISE_LINEAR points { step: -5 factor: 1 } }\n}",
     "3:46: train.schedule.points[0].step is -5; must be at least 0"},
    {"train {\n  schedule { kind: PIECEWISE_LINEAR points { step: 5 factor: -1 } }\n}",
     "3:54: train.schedule.points[0].factor is -1; must be at least 0"},
    {"train {\n  optimizer { beta1: 1 }\n}", "3:15: train.optimizer.beta1 is 1; must be at least 0 and below 1"},
    {"train {\n  optimizer { beta2: -0.1 }\n}", "3:15: train.optimizer.beta2 is -0.1; must be at least 0 and below 1"},
    {"train {\n  optimizer { epsilon: 0 }\n}", "3:15: train.optimizer.epsilon is 0; must be above 0"},
    {"train {\n  optimizer { weight_decay: -1 }\n}", "3:15: train.optimizer.weight_decay is -1; must be at least 0"},
    {"train {\n  optimizer { kind: SGD momentum: 1 }\n}",
     "3:25: train.optimizer.momentum is 1; must be at least 0 and below 1"},
    {"train {\n  optimizer { momentum: 0.5 }\n}",
     "3:15: train.optimizer.momentum is given, but ADAMW has betas; momentum is of SGD and MUON"},
    {"train {\n  optimizer { kind: ADAFACTOR lazy_rows: true }\n}",
     "3:31: train.optimizer.lazy_rows has no meaning for ADAFACTOR, whose moments are shared by all rows of a matrix; "
     "use ADAMW, LAMB, LION or SGD"},
    {"train {\n  optimizer { kind: MUON lazy_rows: true }\n}",
     "3:26: train.optimizer.lazy_rows has no meaning for MUON's matrices; use ADAMW, LAMB, LION or SGD"},
    {"train {\n  optimizer { ema_momentum: 1 }\n}",
     "3:15: train.optimizer.ema_momentum is 1; must be at least 0 and below 1"},
    {"train {\n  optimizer { lookahead_steps: -5 }\n}",
     "3:15: train.optimizer.lookahead_steps is -5; must be at least 0"},
    {"train {\n  optimizer { lookahead_alpha: 0 }\n}",
     "3:15: train.optimizer.lookahead_alpha is 0; must be above 0 and at most 1"},
    {"train {\n  optimizer { weight_decay_exclude: [\"norm\", \"(bias\"] }\n}",
     "3:15: train.optimizer.weight_decay_exclude[1] '(bias' is no regular expression: Mismatched '(' and ')' in "
     "regular expression"},
    {"train {\n  optimizer { layer_adaptation_exclude: \"norm\" }\n}",
     "3:3: train.optimizer.layer_adaptation_exclude is given, but ADAMW adapts no layers; only LAMB does"},
    {"train {\n  optimizer { kind: LION bias_correction: false }\n}",
     "3:26: train.optimizer.bias_correction is off, but LION has none; only ADAMW and LAMB do"},
    {"train {\n  optimizer { learning_rate_factors { factor: 2 } }\n}",
     "3:15: train.optimizer.learning_rate_factors[0].pattern is required; see `weft config --explain "
     "train.optimizer.learning_rate_factors[0].pattern`"},
    {"train {\n  optimizer { learning_rate_factors { pattern: \"[z-a]\" } }\n}",
     "3:39: train.optimizer.learning_rate_factors[0].pattern '[z-a]' is no regular expression: Invalid range in "
     "bracket expression."},
    {"train {\n  optimizer { learning_rate_factors { pattern: \"a\" factor: -1 } }\n}",
     "3:52: train.optimizer.learning_rate_factors[0].factor is -1; must be at least 0"},
    {"train {\n  adversarial { kind: FGM epsilon: 0 }\n}", "3:27: train.adversarial.epsilon is 0; must be above 0"},
    {R"(model { path: "" })", "2:9: model.path is required; see `weft config --explain model.path`"},
    {R"(model { compat: "keras" })", "2:9: model.compat is 'keras'; the only one is 'bert4keras3'"},
    {R"(model { set: ["a=1", "b"] })",
     "2:9: model.set[1] is 'b'; write KEY=VALUE, for example hidden_dropout_prob=0.2"},
    {R"(model { set: "=1" })", "2:9: model.set[0] is '=1'; write KEY=VALUE, for example hidden_dropout_prob=0.2"},
    {"model { allow_missing: true initialise: true }",
     "2:9: model.allow_missing is for weights that are read, but with model.initialise none are; remove one of them"},
    {"model { allow_missing: true }\nlora { }",
     "2:9: model.allow_missing leaves random weights, which LoRA would freeze and not save; remove it or the lora "
     "message"},
    {"lora { rank: 0 }", "2:8: lora.rank is 0; must be at least 1"},
    {"train {\n  adversarial { kind: FGM }\n}\nlora { }",
     "3:17: train.adversarial.kind is FGM, which moves the embedding along its own gradient, but LoRA freezes it; use "
     "GRADIENT_PENALTY or train all weights"},
    {"lora { alpha: 0 }", "2:8: lora.alpha is 0; must be above 0"},
    {"lora { dropout: 1 }", "2:8: lora.dropout is 1; must be at least 0 and below 1"},
    {"lora { adapter: \"a\" rank: 8 }", "2:21: lora.rank is given by lora.adapter; remove it"},
    {"lora { adapter: \"a\" dropout: 0.1 alpha: 16 }", "2:34: lora.alpha is given by lora.adapter; remove it"},
    {"lora { adapter: \"a\" target_modules: \"q\" }", "2:1: lora.target_modules is given by lora.adapter; remove it"},
    {"lora { adapter: \"a\" layers: 0 }", "2:1: lora.layers is given by lora.adapter; remove it"},
    {"lora { adapter: \"a\" rank_stabilised: false }",
     "2:21: lora.rank_stabilised is given by lora.adapter; remove it"},
    {R"(lora { target_modules: "" })", "2:8: lora.target_modules[0] is empty; name a layer"},
    {"lora { layers: [1, -1] }", "2:8: lora.layers[1] is -1; must be at least 0"},
    {"lora { layers: 1\n layers: 1 }", "3:2: lora.layers[1] names block 1 twice"},
    {"lora { }\nmodel { initialise: true }",
     "3:9: model.initialise makes random weights, which LoRA would freeze; remove it or the lora message"},
    {"task { kind: SEQUENCE_TO_SEQUENCE }\ndata { packing: SPLIT }",
     "3:8: data.packing is SPLIT, which cuts prompts from their completions; SEQUENCE_TO_SEQUENCE takes NONE or WHOLE"},
    {"data { sequence_length: 1 }", "2:8: data.sequence_length is 1; must be at least 2"},
    {"data {\n  sources { path: \"e\" weight: 0 }\n}", "3:23: data.sources[0].weight is 0; must be above 0"},
    {"data { sources { path: \"d\" }\n  sources { weight: 2 } }",
     "3:3: data.sources[1].path is required; see `weft config --explain data.sources[1].path`"},
    {"precision { compute: F32 master_weights: STOCHASTIC_ROUNDING }",
     "2:26: precision.master_weights is STOCHASTIC_ROUNDING, but precision.compute is F32, which is not rounded; set "
     "one of them"},
    {"task { mask_probability: 1 }", "2:8: task.mask_probability is 1; must be at least 0 and below 1"},
    {"task { mask_probability: 0 }", "2:8: task.mask_probability is 0; must be above 0"},
    {"task { dropout: 1.5 }", "2:8: task.dropout is 1.5; must be at least 0 and below 1"},
    {"task { transition_scale: 0 }", "2:8: task.transition_scale is 0; must be above 0"},
    {"task { pointer_size: 7 }", "2:8: task.pointer_size is 7; must be an even number from 2 to 4096"},
    {"task { stride: -1 }", "2:8: task.stride is -1; must be at least 0"},
    {"task { max_answer_length: 0 }", "2:8: task.max_answer_length is 0; must be at least 1"},
    {"task { max_ngram: 0 }", "2:8: task.max_ngram is 0; must be at least 1"},
    {"task { cosent_scale: 0 }", "2:8: task.cosent_scale is 0; must be above 0"},
    {"task { similarity_scale: -3 }", "2:8: task.similarity_scale is -3; must be above 0"},
    {"parallel { tensor: 0 }", "2:12: parallel.tensor is 0; must be at least 1"},
    {"parallel { data: -1 }", "2:12: parallel.data is -1; must be at least 0"},
    {"parallel { zero_stage: 4 }", "2:12: parallel.zero_stage is 4; must be 0, 1, 2 or 3"},
    {"parallel { sequence_parallel: true }",
     "2:12: parallel.sequence_parallel shares tokens among tensor-parallel ranks, but parallel.tensor is 1"},
    {"parallel { threads: -1 }", "2:12: parallel.threads is -1; must be at least 0"},
    {"evaluation { held_out_fraction: 1 }", "2:14: evaluation.held_out_fraction is 1; must be at least 0 and below 1"},
    {R"(evaluation { held_out_fraction: 0.1 sources { path: "e" } })",
     "2:14: evaluation.held_out_fraction is 0.1, but evaluation.sources are given; choose one of the two"},
    {"evaluation { sources { } }",
     "2:14: evaluation.sources[0].path is required; see `weft config --explain evaluation.sources[0].path`"},
    {"evaluation { every_steps: 10 }",
     "2:14: evaluation.every_steps is 10, but nothing is held out; set evaluation.sources or "
     "evaluation.held_out_fraction"},
    {"evaluation { use_ema: true }",
     "2:14: evaluation.use_ema is true, but there are no averages; set train.optimizer.ema_momentum"},
    {R"(checkpoint { best_metric: "f1" })",
     "2:14: checkpoint.best_metric is 'f1', but nothing is held out; set evaluation.sources or "
     "evaluation.held_out_fraction"},
    {"train { patience: 3 }\nevaluation { held_out_fraction: 0.1 }",
     "2:9: train.patience is 3, but evaluation.every_steps is 0; evaluate while training"},
    {"train { patience: -1 }", "2:9: train.patience is -1; must be at least 0"},
    {R"(train { freeze: ["a", "("] })",
     "2:9: train.freeze[1] '(' is no regular expression: Mismatched '(' and ')' in regular expression"},
    {R"(train { freeze: "a" } lora { })",
     "2:1: train.freeze is given, but with lora the model's weights are frozen already; remove one of the two"},
    {"task { condition: LABEL kind: CLASSIFICATION }",
     "2:8: task.condition is LABEL, but task.kind is CLASSIFICATION; LANGUAGE_MODEL and SEQUENCE_TO_SEQUENCE write "
     "under conditions"},
    {"task { condition_size: 8 }", "2:8: task.condition_size is given, but task.condition is not"},
    {"task { condition_hidden_size: 8 }", "2:8: task.condition_hidden_size is given, but task.condition is not"},
    {"task { condition_activation: \"tanh\" }", "2:8: task.condition_activation is given, but task.condition is not"},
    {"task { condition: LABEL condition_size: 0 }", "2:25: task.condition_size is 0; must be at least 1"},
    {"task { condition: LABEL condition_hidden_size: -1 }",
     "2:25: task.condition_hidden_size is -1; must be at least 0"},
    {"task { condition: VECTOR condition_size: 8 }",
     "2:26: task.condition_size is given, but task.condition is VECTOR, whose size is that of the data's"},
    {"task { condition: LABEL condition_activation: \"tanh\" }",
     "2:25: task.condition_activation is given, but task.condition_hidden_size is 0"},
    {"task { condition: LABEL } samples { prompts: \"a\" }",
     "2:27: samples.prompts have no condition to be continued under; remove them, or use evaluation.generation"},
    {"state_tuning { } model { initialise: true }",
     "2:26: model.initialise makes random weights, which state_tuning would freeze; remove it or the state_tuning "
     "message"},
    {"state_tuning { } model { allow_missing: true }",
     "2:26: model.allow_missing leaves random weights, which state_tuning would freeze and not save; remove it"},
    {"state_tuning { } train { adversarial { kind: FGM } }",
     "2:40: train.adversarial.kind is FGM, which moves the embedding along its own gradient, but state_tuning freezes "
     "it"},
    {"task { multilabel: true }",
     "2:8: task.multilabel is true, but task.kind is LANGUAGE_MODEL; only CLASSIFICATION has labels of texts"},
    {"evaluation { generation { } }",
     "2:14: evaluation.generation is given, but nothing is held out; set evaluation.sources or "
     "evaluation.held_out_fraction"},
    {"evaluation { held_out_fraction: 0.1 generation { } }",
     "2:37: evaluation.generation is given, but data.packing is SPLIT, which cuts prompts and answers; use WHOLE or "
     "NONE"},
    {"task { kind: TAGGING } evaluation { generation { } }",
     "2:37: evaluation.generation is given, but task.kind is TAGGING; SEQUENCE_TO_SEQUENCE and LANGUAGE_MODEL write "
     "answers"},
    {"data { packing: NONE } evaluation { held_out_fraction: 0.1 generation { beams: 0 } }",
     "2:73: evaluation.generation.beams is 0; must be at least 1"},
    {"data { packing: NONE } evaluation { held_out_fraction: 0.1 generation { max_new_tokens: 0 } }",
     "2:73: evaluation.generation.max_new_tokens is 0; must be at least 1"},
    {"evaluation { every_steps: -1 }", "2:14: evaluation.every_steps is -1; must be at least 0"},
    {"evaluation { max_rows: -1 }", "2:14: evaluation.max_rows is -1; must be at least 0"},
    {"samples { every_steps: 10 }", "2:11: samples.every_steps is 10, but there are no samples.prompts"},
    {"samples { max_new_tokens: 0 }", "2:11: samples.max_new_tokens is 0; must be at least 1"},
    {"samples { every_steps: -1 }", "2:11: samples.every_steps is -1; must be at least 0"},
    {"checkpoint { every_steps: -1 }", "2:14: checkpoint.every_steps is -1; must be at least 0"},
    {"checkpoint { keep_last: 0 }", "2:14: checkpoint.keep_last is 0; must be at least 1"},
    {R"(output { directory: "" })", "2:10: output.directory is required; see `weft config --explain output.directory`"},
    {"output { log_every_steps: 0 }", "2:10: output.log_every_steps is 0; must be at least 1"},
};

// Configs that lack something, with the whole message.
const std::vector<BadConfig> kIncomplete = {
    {"", "x.textproto: model.path is required; see `weft config --explain model.path`"},
    {R"(model { path: "m" })", R"(x.textproto: data.sources is required: sources { path: "…" })"},
    {"model { path: \"m\" }\ndata { }", R"(x.textproto:2:1: data.sources is required: sources { path: "…" })"},
    {"model { path: \"m\" }\ndata { sources { path: \"d\" } }", "x.textproto: train.steps or train.epochs is required"},
    {"model { path: \"m\" }\ndata { sources { path: \"d\" } }\ntrain { steps: 1 }",
     "x.textproto: output.directory is required; see `weft config --explain output.directory`"},
    {"model { path: \"m\" }\ndata { sources { path: \"d\" } }\ntrain { epochs: -1 }",
     "x.textproto:3:9: train.epochs is -1; must be above 0"},
};

constexpr const char* kRunnable =
    R"(model { path: "m" } data { sources { path: "d" } } train { steps: 9 } output { directory: "o" })";

std::string error_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::bad_input) << error.what();
    EXPECT_EQ(std::string_view(error.what()).find('\n'), std::string_view::npos) << error.what();
    return error.what();
  }
  return "no error";
}

std::string check(const std::string& text, const std::string& name) {
  return error_of([&] { check_run_config(parse_run_config(text, name)); });
}

TEST(BadConfigs, unreadable_text_names_line_column_and_field) {
  for (const BadConfig& bad : kUnreadable)
    EXPECT_EQ(check(bad.text, "x.textproto"), "x.textproto:" + bad.error) << bad.text;
}

TEST(BadConfigs, unreadable_json_names_line_column_and_field) {
  for (const BadConfig& bad : kUnreadableJson) EXPECT_EQ(check(bad.text, "x.json"), "x.json:" + bad.error) << bad.text;
}

TEST(BadConfigs, wrong_values_name_where_they_were_set) {
  std::string base = testing::TempDir() + "weft_bad_configs_base.textproto";
  std::ofstream(base) << kRunnable;
  std::string name = testing::TempDir() + "x.textproto";
  const std::string extends = "extends: \"weft_bad_configs_base.textproto\"\n";
  EXPECT_EQ(check(extends, name), "no error");
  for (const BadConfig& bad : kWrongValues)
    EXPECT_EQ(check(extends + bad.text, name), name + ":" + bad.error) << bad.text;
}

TEST(BadConfigs, what_is_missing_is_named) {
  for (const BadConfig& bad : kIncomplete) EXPECT_EQ(check(bad.text, "x.textproto"), bad.error) << bad.text;
}

TEST(BadConfigs, deep_nesting_is_an_error_and_no_crash) {
  for (const char* opening : {"[", "{\"train\":", "{\"data\":{\"sources\":["}) {
    std::string text;
    while (text.size() < 900000) text += opening;
    EXPECT_NE(check(text, "x.json"), "no error");
  }
  std::string text;
  while (text.size() < 900000) text += "train { ";
  EXPECT_EQ(check(text, "x.textproto").substr(0, 50), "x.textproto:1:9: train has no field 'train'; it ha");
}

TEST(BadConfigs, a_pattern_of_any_size_is_read_or_refused) {
  for (const char* part : {"(", "(a*)*", "a{999}", "[^", "\\\\"}) {
    std::string pattern;
    while (pattern.size() < 900) pattern += part;
    check(std::string(kRunnable).replace(
              std::string(kRunnable).find("steps"), 0, "optimizer { weight_decay_exclude: \"" + pattern + "\" } "),
          "x.textproto");
  }
}

TEST(BadConfigs, ranks_that_do_not_fit) {
  auto check_ranks = [](const std::string& text, int num_ranks) -> std::string {
    try {
      check_against_ranks(parse_run_config(text, "x.textproto"), num_ranks);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::usage);
      return error.what();
    }
    return "no error";
  };
  EXPECT_EQ(check_ranks("parallel { tensor: 4 }", 6),
            "x.textproto:1:12: parallel.tensor is 4, but 6 ranks were started; start a multiple of 4 ranks");
  EXPECT_EQ(check_ranks("parallel { tensor: 2\n  data: 2 }", 1),
            "x.textproto:2:3: parallel.tensor is 2 and parallel.data 2, but 1 rank was started; start 4 ranks");
  EXPECT_EQ(check_ranks("train { batch_size: 9 }", 2),
            "x.textproto:1:9: train.batch_size is 9; must be a multiple of the 2 data-parallel ranks");
  EXPECT_EQ(check_ranks("train { batch_size: 8 micro_batch_size: 8 }", 2),
            "x.textproto:1:23: train.micro_batch_size is 8; must divide the 4 rows of a data-parallel rank "
            "(train.batch_size 8 on 2 ranks)");
  EXPECT_EQ(check_ranks("train { batch_size: 8 micro_batch_size: 2 } parallel { tensor: 2 }", 4), "no error");
}

}  // namespace
}  // namespace weft
