// The unigram model: the segmentation with the best sum of piece scores.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/word_model.h"

namespace weft {

/// What the readers of vocabularies hold pieces to. The cost of a text grows with the longest piece; published models
/// stay below 100 bytes.
inline constexpr size_t kMaxPieceBytes = 1024;
/// The trie counts its nodes in 24 bits; published models have up to 3 MB of pieces.
inline constexpr size_t kMaxVocabularyBytes = size_t{1} << 24;
/// Sums of scores must stay finite; published models use 0 to about -10^6.
inline constexpr double kMaxPieceScore = 1e9;

struct UnigramPiece {
  std::string_view text;
  int32_t id = 0;
  double score = 0;
  bool is_user_defined = false;
  bool is_special = false;
};

/// Whose arithmetic and unknown characters: near ties fall as they do there.
enum class UnigramRules : uint8_t {
  sentencepiece,   // sums are kept as floats
  tokenizer_json,  // sums are doubles; a run of unknown characters that is spelled like a piece becomes that piece
};

struct UnigramOptions {
  UnigramRules rules = UnigramRules::sentencepiece;
  int32_t unknown_id = 0;
  /// The ids of the 256 byte pieces that stand for unknown characters, -1 for one that is missing (the run becomes
  /// unknown then); empty: a run of unknown characters is one `unknown_id`.
  std::vector<int32_t> byte_ids = {};
};

struct UnigramScratch : ModelScratch {
  struct Best {
    double score;
    int32_t id;
    int32_t begin;  // -1: no path ends here
  };
  std::vector<Best> best_until;  // by end position
};

/// Immutable. Viterbi with the reference's order of additions and its rounding, so that near ties fall the same way.
class UnigramModel : public WordModel {
 public:
  /// The pieces' texts are together shorter than kMaxVocabularyBytes. Of equal texts the last one counts; an empty one
  /// is never found.
  UnigramModel(const std::vector<UnigramPiece>& pieces, UnigramOptions options);

  /// The same model that never finds a special piece, whatever the text says; shares its tables.
  std::unique_ptr<WordModel> without_specials() const;

  /// Throws Error(bad_input) for a word that is too long to count its bytes.
  void encode(std::string_view word,
              const char* readable_end,
              ModelScratch& scratch,
              std::vector<int32_t>& ids) const override;
  std::unique_ptr<ModelScratch> make_scratch() const override { return std::make_unique<UnigramScratch>(); }
  bool encode_with_spans(std::string_view word,
                         std::vector<int32_t>& ids,
                         std::vector<TokenSpan>& spans) const override;

 private:
  struct Node {
    double score = 0;
    int32_t id = -1;  // of the piece that ends here
    bool is_user_defined = false;
    bool is_special = false;
  };
  struct Edge {
    uint32_t key = 0;    // parent << 8 | byte
    uint32_t child = 0;  // 0: free, for the root is nobody's child
  };
  struct Trie {
    explicit Trie(const std::vector<UnigramPiece>& pieces);
    void insert(const UnigramPiece& piece);
    uint32_t child(uint32_t node, unsigned char byte) const;

    std::vector<Node> nodes;
    std::vector<Edge> edges;  // open addressing
    double unknown_score = 0;
    float max_score = 0;
  };

  bool is_found(const Node& node) const { return node.id >= 0 && !(skips_specials_ && node.is_special); }
  int32_t find_piece(std::string_view text) const;
  template <bool keeps_floats>
  void extend_paths(std::string_view text, size_t begin, size_t character_end, UnigramScratch& scratch) const;
  void append_best(std::string_view text,
                   const UnigramScratch& scratch,
                   std::vector<int32_t>& ids,
                   std::vector<TokenSpan>* spans) const;
  void append_unknown(std::string_view run, std::vector<int32_t>& ids) const;
  void segment(std::string_view word,
               UnigramScratch& scratch,
               std::vector<int32_t>& ids,
               std::vector<TokenSpan>* spans) const;

  std::shared_ptr<const Trie> trie_;
  UnigramOptions options_;
  bool skips_specials_ = false;
};

}  // namespace weft
