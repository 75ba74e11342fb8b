// Files of labelled texts of any content; the first byte says what they are read as.
#include "data/conditional_data.h"
#include "data/labelled_data.h"
#include "data/preference_data.h"
#include "data/question_data.h"
#include "data/relation_data.h"
#include "data/similar_data.h"
#include "data/tagged_data.h"
#include "fuzz/checkpoint_fuzzer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  weft::MemoryFile file(data + 1, size - 1, data[0] % 2 == 0 ? ".jsonl" : ".tsv");
  const std::string& path = file.path();
  return weft::expect_only_input_errors([&] {
    switch (static_cast<uint8_t>(data[0] - '0') / 2 % 7) {
      case 0:
        weft::read_multilabel_texts(path);
        return void(weft::read_labelled_texts(path));
      case 1:
        return void(weft::tags_of(weft::read_tagged_texts(path)));
      case 2:
        return void(weft::read_questions(path));
      case 3:
        return void(weft::read_similar_texts(path));
      case 4:
        return void(weft::predicates_of(weft::read_relation_texts(path)));
      case 5:
        return void(data[0] / 12 % 2 == 0 ? weft::read_label_conditions(path) : weft::read_vector_conditions(path));
      default:
        return void(weft::read_preference_texts(path));
    }
  });
}
