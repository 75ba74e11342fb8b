// Readers of labelled texts: what they make of each form, and one clear line for what they cannot read.
#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>

#include "core/error.h"
#include "data/conditional_data.h"
#include "data/entity_tags.h"
#include "data/labelled_data.h"
#include "data/question_data.h"
#include "data/relation_data.h"
#include "data/similar_data.h"
#include "data/tagged_data.h"
#include "data/task_rows.h"
#include "data/text_places.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/tokenizer_files.h"

namespace weft {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Strings = std::vector<std::string>;

class LabelledTexts : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "weft_texts_XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    std::ofstream vocabulary(folder_ / "vocab.txt");
    for (const char* word : {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "d", "##s", "é"}) {
      vocabulary << word << '\n';
    }
    vocabulary.close();
    tokenizer_ = load_tokenizer((folder_ / "vocab.txt").string());
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string write(const std::string& name, const std::string& text) const {
    std::ofstream(folder_ / name, std::ios::binary) << text;
    return (folder_ / name).string();
  }

  template <typename Read>
  void expect_error(Read read, const std::string& name, const std::string& text, const std::string& says) const {
    std::string path = write(name, text);
    try {
      read(path);
      ADD_FAILURE() << "no error for " << text;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::bad_input);
      EXPECT_THAT(error.what(), HasSubstr(says));
      EXPECT_THAT(error.what(), HasSubstr(name));
    }
  }

  fs::path folder_;
  std::shared_ptr<const Tokenizer> tokenizer_;
};

TEST_F(LabelledTexts, EntitiesOfTags) {
  auto entities = [](const Strings& tags) { return entities_of(tags); };
  using Entities = std::vector<TaggedEntity>;
  EXPECT_EQ(entities({"O", "B-X", "I-X", "O", "B-X", "B-X", "I-Y"}),
            (Entities{{"X", 1, 2}, {"X", 4, 4}, {"X", 5, 5}, {"Y", 6, 6}}));
  EXPECT_EQ(entities({"I-X", "I-X", "E-X", "I-X", "S-Y"}), (Entities{{"X", 0, 2}, {"X", 3, 3}, {"Y", 4, 4}}));
  EXPECT_EQ(entities({"B", "M", "E", "S", "B", "E"}), (Entities{{"", 0, 2}, {"", 3, 3}, {"", 4, 5}}));
  EXPECT_EQ(entities({"NN", "Badge", ""}), Entities{});
  EXPECT_TRUE(marks_entities({"O", "B-X", "I-X"}));
  EXPECT_FALSE(marks_entities({"NN", "VB", "Badge"}));
}

TEST_F(LabelledTexts, TaggedInAllForms) {
  auto columns = read_tagged_texts(write("a.conll", "-DOCSTART- O\n\na NN B-X\r\nb VB O\n\n\nc\tO\n"));
  ASSERT_EQ(columns.size(), 2u);
  EXPECT_EQ(columns[0].words, (Strings{"a", "b"}));
  EXPECT_EQ(columns[0].tags, (Strings{"B-X", "O"}));
  EXPECT_EQ(columns[1].words, (Strings{"c"}));
  auto tokens = read_tagged_texts(write("a.jsonl", R"({"tokens": ["a", "b"], "tags": ["N", "V"]})"));
  EXPECT_EQ(tokens[0].tags, (Strings{"N", "V"}));
  auto text =
      read_tagged_texts(write("b.jsonl", R"({"text": "é as b", "entities": [{"start": 2, "end": 4, "label": "X"}]})"));
  EXPECT_EQ(text[0].entities[0].place, (TokenSpan{3, 5})) << "characters become bytes";
  EXPECT_EQ(tags_of(text), (Strings{"B-X", "I-X", "O"}));
  EXPECT_EQ(entity_labels_of(columns), (Strings{"X"}));
}

TEST_F(LabelledTexts, TagsStandAtTheFirstTokenOfAWord) {
  auto words = read_tagged_texts(write("a.tsv", "as O\nbs B-X\nc I-X\n"));
  auto text =
      read_tagged_texts(write("a.jsonl", R"({"text": "as bs c", "entities": [{"start": 3, "end": 7, "label": "X"}]})"));
  for (const auto& texts : {words, text}) {
    auto data = make_tagging_data(texts, {"O", "B-X", "I-X"}, *tokenizer_, {.max_length = 16});
    TrainingRow row = data->row(0);
    EXPECT_THAT(row.ids, ElementsAre(2, 5, 9, 6, 9, 7, 3));
    EXPECT_THAT(row.targets, ElementsAre(-1, 0, -1, 1, -1, 2, -1));
    auto marked = make_entity_data(texts, {"X"}, *tokenizer_, {.max_length = 16});
    EXPECT_THAT(marked->row(0).marks, ElementsAre(RowMark{.span = 0, .label = 0, .first = 3, .last = 5}));
    auto cut = make_entity_data(texts, {"X"}, *tokenizer_, {.max_length = 5});
    EXPECT_THAT(cut->row(0).ids, ElementsAre(2, 5, 9, 6, 3));
  }
  EXPECT_THROW(make_tagging_data(words, {"O"}, *tokenizer_, {}), Error) << "a tag that training has not seen";
}

TEST_F(LabelledTexts, EntitiesAreFoundInTokensThatAreSpelledWithSpaces) {
  std::string text = "of the people, for the \xC3\xA9tat";
  std::string entities = R"([{"start": 7, "end": 13, "label": "X"}, {"start": 23, "end": 27, "label": "Y"}])";
  auto texts = read_tagged_texts(write("a.jsonl", R"({"text": ")" + text + R"(", "entities": )" + entities + "}"));
  for (const auto& tokenizer :
       {load_tokenizer(test::tokenizer_data("roberta")), test::sentencepiece_encoder_tokenizer()}) {
    TokenisedWords tokens = tokenise_text(text, *tokenizer, 64);
    auto data = make_entity_data(texts, {"X", "Y"}, *tokenizer, {.max_length = 64});
    Strings found;
    for (const RowMark& mark : data->row(0).marks) {
      TokenSpan place{tokens.places[static_cast<size_t>(mark.first)].begin,
                      tokens.places[static_cast<size_t>(mark.last)].end};
      place = without_outer_spaces(text, place);
      found.push_back(text.substr(place.begin, place.end - place.begin));
    }
    EXPECT_THAT(found, ElementsAre("people", "\xC3\xA9tat")) << tokenizer->type();
  }
  EXPECT_EQ(without_outer_spaces(" \n", {0, 2}), (TokenSpan{0, 2}));
}

TEST_F(LabelledTexts, TaggedThatCannotBe) {
  auto check = [&](const std::string& name, const std::string& text, const std::string& says) {
    expect_error(read_tagged_texts, name, text, says);
  };
  check("a.tsv", "", "holds no tagged text");
  check("a.tsv", "a O\nword\n", "a.tsv:2: expected a word and its tag");
  check("a.jsonl", "[1]", "a.jsonl:1: is no JSON object");
  check("a.jsonl", R"({"tokens": ["a"], "tags": []})", "has 1 tokens and 0 tags");
  check("a.jsonl", R"({"tokens": [1], "tags": ["x"]})", "\"tokens\" is no list of strings");
  check("a.jsonl", R"({"tokens": ["a"], "ner_tags": [1]})", "\"ner_tags\"");
  check("a.jsonl", R"({"text": "ab", "entites": []})", "has no \"entities\"");
  check("a.jsonl", R"({"text": "ab", "entities": 5})", "\"entities\" is no list");
  check("a.jsonl", R"({"text": "ab", "entities": [7]})", "\"start\" is no place");
  check("a.jsonl", R"({"text": "ab", "entities": [{"start": 1, "end": 3, "label": "X"}]})", "text of 2 characters");
  check("a.jsonl", R"({"text": "ab", "entities": [{"start": 1, "end": 1, "label": "X"}]})", "ends where it starts");
  check("a.jsonl", R"({"text": "ab", "entities": [{"start": -1, "end": 1, "label": "X"}]})", "\"start\" is no place");
  check("a.jsonl", R"({"text": "ab", "entities": [{"start": 0, "end": 1}]})", "no label");
}

TEST_F(LabelledTexts, QuestionsInAllForms) {
  std::vector<QuestionText> expected = {{.question = "a", .context = "é b c", .answers = {{3, 4}}}};
  EXPECT_EQ(read_questions(write("a.tsv", "a\té b c\tb\n")), expected);
  for (const char* line : {R"({"question": "a", "context": "é b c", "answer": "b"})",
                           R"({"question": "a", "context": "é b c", "answers": {"text": ["b"], "answer_start": [2]}})",
                           R"({"question": "a", "context": "é b c", "answers": [{"text": "b", "answer_start": 2}]})"}) {
    EXPECT_EQ(read_questions(write("a.jsonl", line)), expected);
  }
  EXPECT_TRUE(
      read_questions(write("a.jsonl", R"({"question": "a", "context": "b", "answers": []})"))[0].answers.empty());
  for (const char* open : {"a.jsonl", "a.tsv"}) {
    std::string text = std::string(open) == "a.tsv" ? "a\tb\n" : R"({"question": "a", "context": "b"})";
    EXPECT_EQ(read_open_questions(write(open, text))[0],
              (QuestionText{.question = "a", .context = "b", .answers = {}}));
  }
  auto check = [&](const std::string& text, const std::string& says) {
    expect_error(read_questions, "b.jsonl", text, says);
  };
  check(R"({"question": "a", "context": "b", "answers": {"text": ["b"], "answer_start": [1]}})", "at character 1");
  check(R"({"question": "a", "context": "b", "answers": {"text": ["b"], "answer_start": []}})", "same length");
  check(R"({"question": "a", "context": "b", "answers": 3})", "neither an object nor a list");
  check(R"({"question": "a", "context": "b", "answers": [3]})", "no list of objects");
  check(R"({"question": "a", "context": "b", "answer": "c"})", "does not stand in the context");
  check(R"({"question": "", "context": "b", "answers": []})", "b.jsonl:1: has no question");
  check(R"({"question": "a", "context": "b"})", "neither \"answers\" nor \"answer\"");
  check(R"({"question": "a", "answer": "b"})", "has no \"context\"");
  expect_error(read_questions, "b.tsv", "question\tcontext\tanswer\n", "is a header");
  expect_error(read_questions, "b.tsv", "a\tb\n", "has 2 fields");
}

TEST_F(LabelledTexts, LongTextsAreReadInWindows) {
  QuestionText question{.question = "a", .context = "a b c d a b c d", .answers = {{8, 11}}};  // "a b", the second
  QuestionRowOptions options{.rows = {.max_length = 8}, .stride = 2};
  auto windows = make_question_data({question}, *tokenizer_, options);
  ASSERT_EQ(windows->rows_per_epoch(), 3);
  options.rows.shuffle = false;
  options.together = true;
  auto together = make_question_data({question}, *tokenizer_, options);
  ASSERT_EQ(together->rows_per_epoch(), 1);
  TrainingRow row = together->row(0);
  ASSERT_EQ(row.spans.size(), 3u);
  EXPECT_THAT(row.labels, ElementsAre(0, 0, 0));
  // Windows of four tokens behind [CLS] a [SEP]: a b c d, c d a b, a b c d; a window that cuts the answer has none.
  EXPECT_THAT(row.marks,
              ElementsAre(RowMark{.span = 1, .label = 0, .first = 5, .last = 6},
                          RowMark{.span = 2, .label = 0, .first = 3, .last = 4}));
}

TEST_F(LabelledTexts, PairsInAllForms) {
  EXPECT_EQ(read_similar_texts(write("a.tsv", "a\tb\n"))[0], (SimilarTexts{.first = "a", .second = "b", .score = {}}));
  EXPECT_EQ(read_similar_texts(write("a.tsv", "a\tb\t-0.5\n"))[0].score, -0.5f);
  EXPECT_EQ(read_similar_texts(write("a.jsonl", R"({"first": "a", "second": "b", "score": 4})"))[0].score, 4.0f);
  EXPECT_EQ(read_similar_texts(write("a.jsonl", R"({"text": "a", "synonyms": ["b", "c"]})")).size(), 2u);
  expect_error(read_similar_texts, "b.tsv", "a\tb\tx\n", "b.tsv:1: the score is no number");
  expect_error(read_similar_texts, "b.tsv", "a\tb\t1\na\tc\n", "b.tsv:2: some pairs have a score");
  expect_error(read_similar_texts, "b.tsv", "a\t\n", "has an empty text");
  expect_error(read_similar_texts, "b.jsonl", R"({"text": "a"})", "has no \"synonyms\"");
  auto data = make_similarity_data({{.first = "a", .second = "b c", .score = {}}}, *tokenizer_, true, {});
  TrainingRow row = data->row(0);
  EXPECT_THAT(row.ids, ElementsAre(2, 5, 3, 6, 7, 3, 2, 6, 7, 3, 5, 3));
  EXPECT_THAT(row.targets, ElementsAre(-1, -1, 6, 7, 3, -1, -1, -1, -1, 5, 3, -1));
}

TEST_F(LabelledTexts, LabelsThatCannotBe) {
  expect_error(read_labelled_texts, "a.tsv", "text\n", "a.tsv:1: has 1 fields");
  expect_error(read_labelled_texts, "a.jsonl", R"({"text": "a"})", "a.jsonl:1: has no \"label\"");
  expect_error(read_labelled_texts, "a.jsonl", R"({"text": "a", "label": 0.5})", "neither a string nor an integer");
  expect_error(read_labelled_texts, "a.tsv", "\tx\n", "has an empty text");
  expect_error(read_labelled_texts, "a.tsv", "text\tLabel\na\tx\n", "a.tsv:1: is a header");
  expect_error(read_labelled_texts, "a.tsv", "a\tx\n\xff\tx\n", "a.tsv:2: is no UTF-8");
  expect_error(read_labelled_texts, "a.jsonl", R"({"txt": "a", "label": "x"})", "has no \"text\"");
  expect_error(read_labelled_texts, "a.jsonl", R"({"first": "a", "label": "x"})", "has no \"second\"");
  auto texts = read_labelled_texts(write("a.tsv", "a\tx\n\nb\ty\n"));
  EXPECT_THAT(
      [&] {
        make_labelled_data(texts, {"x", "z"}, *tokenizer_, {});
      },
      ::testing::ThrowsMessage<Error>(::testing::AllOf(HasSubstr("a.tsv:3: label y is unknown"), HasSubstr("x, z"))));
}

TEST_F(LabelledTexts, AnyNumberOfLabelsInAllForms) {
  auto fields = read_multilabel_texts(write("a.tsv", "a b\tx,y\na\t\na\tc\ty\n"));
  ASSERT_EQ(fields.size(), 3u);
  EXPECT_THAT(fields[0].labels, ElementsAre("x", "y"));
  EXPECT_TRUE(fields[1].labels.empty());
  EXPECT_EQ(fields[2], (LabelledText{.first = "a", .second = "c", .labels = {"y"}, .place = fields[2].place}));
  EXPECT_THAT(fields[2].place, HasSubstr("a.tsv:3"));
  auto objects = read_multilabel_texts(write("a.jsonl",
                                             R"({"text": "a b", "label": ["x", "y"]})"
                                             "\n"
                                             R"({"text": "a", "label": []})"));
  for (size_t i = 0; i < objects.size(); ++i) {
    EXPECT_EQ(objects[i].first, fields[i].first);
    EXPECT_EQ(objects[i].labels, fields[i].labels);
  }
  EXPECT_EQ(labels_of(fields), (Strings{"x", "y"}));
  auto data = make_multilabel_data(fields, {"x", "y"}, *tokenizer_, {.shuffle = false});
  EXPECT_THAT(data->row(0).marks, ElementsAre(RowMark{.label = 0}, RowMark{.label = 1}));
  EXPECT_TRUE(data->row(1).marks.empty());
  EXPECT_THAT(data->row(1).labels, ElementsAre(0)) << "a text without labels counts";
  expect_error(read_multilabel_texts, "b.tsv", "a\tx,,y\n", "b.tsv:1: has an empty label");
  expect_error(read_multilabel_texts, "b.jsonl", R"({"text": "a", "label": "x"})", "\"label\" is no list of strings");
  expect_error(read_labelled_texts, "b.jsonl", R"({"text": "a", "label": ["x"]})", "set task.multilabel");
}

TEST_F(LabelledTexts, RelationsStandAtTheFirstPlacesOfTheirEntities) {
  auto texts = read_relation_texts(write("a.jsonl",
                                         R"({"text": "É as b as C", "spo_list": [)"
                                         R"({"subject": "as", "predicate": "of", "object": "c"},)"
                                         R"({"subject": "b", "predicate": "in", "object": "as"}]})"
                                         "\n"
                                         R"({"text": "a", "spo_list": []})"));
  ASSERT_EQ(texts.size(), 2u);
  EXPECT_EQ(texts[0].relations[0], (RelationText::Relation{.subject = {3, 5}, .predicate = "of", .object = {11, 12}}))
      << "bytes, in another case";
  EXPECT_EQ(predicates_of(texts), (Strings{"in", "of"}));
  auto data = make_relation_data(texts, {"in", "of"}, *tokenizer_, {.max_length = 16, .shuffle = false});
  TrainingRow row = data->row(0);
  EXPECT_EQ(row.ids.size(), 9u);
  RowRelation of{.label = 1, .subject_first = 2, .subject_last = 3, .object_first = 7, .object_last = 7};
  RowRelation in{.label = 0, .subject_first = 4, .subject_last = 4, .object_first = 2, .object_last = 3};
  EXPECT_THAT(row.relations, ElementsAre(of, in));
  EXPECT_THAT(data->row(1).labels, ElementsAre(0)) << "a text without relations counts";
  auto cut = make_relation_data(texts, {"in", "of"}, *tokenizer_, {.max_length = 7, .shuffle = false});
  EXPECT_THAT(cut->row(0).relations, ElementsAre(in)) << "an entity beyond the end";
  EXPECT_THROW(make_relation_data(texts, {"in"}, *tokenizer_, {}), Error);
  auto check = [&](const std::string& text, const std::string& says) {
    expect_error(read_relation_texts, "b.jsonl", text, says);
  };
  check(R"({"text": "a"})", "b.jsonl:1: has no \"spo_list\"");
  check(R"({"text": "a", "spo_list": {}})", "\"spo_list\" is no list");
  check(R"({"text": "a", "spo_list": [3]})", "something else than objects");
  check(R"({"text": "a", "spo_list": [{"subject": "a", "object": "a"}]})", "no \"predicate\"");
  check(R"({"text": "a", "spo_list": [{"subject": "a", "predicate": "x", "object": "b"}]})",
        "'b' does not occur in the text");
  check(R"({"text": "", "spo_list": []})", "has an empty text");
  expect_error(read_relation_texts, "b.tsv", "a\n", "stand in .jsonl files");
}

TEST_F(LabelledTexts, ConditionsInAllForms) {
  auto labelled = read_label_conditions(write("a.tsv", "a b\tx\na\tb c\ty\n"));
  ASSERT_EQ(labelled.size(), 2u);
  EXPECT_EQ(labelled[0].document.text, "a b");
  EXPECT_EQ(labelled[1].document.completion, "b c");
  EXPECT_EQ(condition_labels_of(labelled), (Strings{"x", "y"}));
  EXPECT_EQ(read_label_conditions(write("a.jsonl", R"({"text": "a", "label": 3})"))[0].label, "3");
  auto vectors = read_vector_conditions(write("a.jsonl", R"({"text": "a b", "condition": [1, -0.5]})"));
  EXPECT_THAT(vectors[0].values, ElementsAre(1, -0.5f));
  DocumentEncoder encoder(tokenizer_, {.separate_texts = true});
  auto data = make_conditional_data(labelled, {"x", "y"}, encoder, {.max_length = 16, .shuffle = false});
  TrainingRow text = data->row(0), pair = data->row(1);
  EXPECT_THAT(text.ids, ElementsAre(2, 5, 6, 3));
  EXPECT_THAT(text.targets, ElementsAre(5, 6, 3, -1));
  EXPECT_THAT(text.condition_labels, ElementsAre(0));
  EXPECT_THAT(pair.ids, ElementsAre(2, 5, 3, 6, 7, 3));
  EXPECT_THAT(pair.targets, ElementsAre(-1, -1, 6, 7, 3, -1));
  EXPECT_THAT(pair.condition_labels, ElementsAre(1));
  auto of_vectors = make_conditional_data(vectors, {}, encoder, {.max_length = 3, .shuffle = false});
  EXPECT_THAT(of_vectors->row(0).condition_values, ElementsAre(1, -0.5f));
  EXPECT_THAT(of_vectors->row(0).targets, ElementsAre(5, 6, -1)) << "cut";
  EXPECT_NE(of_vectors->fingerprint(),
            make_conditional_data(labelled, {"x", "y"}, encoder, {.max_length = 3})->fingerprint());
  EXPECT_THROW(make_conditional_data(labelled, {"x"}, encoder, {}), Error) << "a label that is not known";
  EXPECT_THROW(make_conditional_data(vectors, {}, encoder, {.max_length = 1}), Error) << "nothing to learn";
  expect_error(read_label_conditions, "b.tsv", "a\n", "b.tsv:1: has 1 fields");
  expect_error(read_label_conditions, "b.tsv", "a\t\n", "has an empty label");
  expect_error(read_label_conditions, "b.tsv", "text\tlabel\na\tx\n", "is a header");
  expect_error(read_label_conditions, "b.jsonl", R"({"text": "a"})", "has no \"label\"");
  expect_error(read_label_conditions, "b.jsonl", R"({"label": "a"})", "b.jsonl:1: ");
  expect_error(read_label_conditions, "b.jsonl", R"({"text": "a", "label": [1]})", "neither a string nor an integer");
  expect_error(read_vector_conditions, "b.jsonl", R"({"text": "a", "condition": [1, "x"]})", "is no list of numbers");
  expect_error(read_vector_conditions, "b.jsonl", R"({"text": "a", "condition": [1e300]})", "too large");
  expect_error(read_vector_conditions,
               "b.jsonl",
               "{\"text\": \"a\", \"condition\": [1]}\n{\"text\": \"a\", \"condition\": [1, 2]}\n",
               "b.jsonl:2: has a condition of 2 numbers, the one before it 1");
  expect_error(read_vector_conditions, "b.tsv", "a\n", "stand in .jsonl files");
}

/// Rows of one long text, to count masks in.
class LongRows final : public TrainingData {
 public:
  TrainingRow row(int64_t) const override {
    TrainingRow row;
    for (int i = 0; i < 4000; ++i) row.ids.push_back(10 + i % 50);
    row.targets.assign(row.ids.size(), -1);
    row.spans = {{0, 4000}};
    return row;
  }
  int64_t rows_per_epoch() const override { return 1; }
  int64_t num_tokens() const override { return 4000; }
  int64_t num_documents() const override { return 1; }
  int32_t vocab_size() const override { return 60; }
  uint64_t fingerprint() const override { return 1; }
};

TEST_F(LabelledTexts, RunsOfMasksCoverTheWantedPart) {
  for (int64_t max_ngram : {1, 3}) {
    MaskingVocabulary vocabulary{.mask_id = 4, .vocab_size = 60, .is_special = {}, .is_continued = {}};
    auto data = make_masked_data(std::make_unique<LongRows>(), vocabulary, {.max_ngram = max_ngram, .seed = 3});
    int64_t masked = 0, runs = 0;
    for (int64_t r = 0; r < 10; ++r) {
      TrainingRow row = data->row(r);
      for (size_t t = 0; t < row.targets.size(); ++t) {
        if (row.targets[t] < 0) continue;
        ++masked;
        if (t == 0 || row.targets[t - 1] < 0) ++runs;
      }
    }
    EXPECT_NEAR(static_cast<double>(masked) / 40000, 0.15, 0.01) << max_ngram;
    double mean_run = static_cast<double>(masked) / static_cast<double>(runs);
    // Runs may touch: 1 / (1 − p) times the mean of 1, or of 18 / 11 words.
    EXPECT_NEAR(mean_run, max_ngram == 1 ? 1 / 0.85 : 18.0 / 11 * (1 + 0.15 * 11 / 18), 0.15) << max_ngram;
  }
}

}  // namespace
}  // namespace weft
