// What a cache holds of one sequence, in a safetensors file: keys and values of its tokens, or states.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "checkpoint/reader.h"
#include "models/model.h"

namespace weft {

struct Session {
  std::vector<int32_t> ids = {};
  int64_t cached = 0;      // so many of them are in the cache; the last one drawn is not
  std::string notes = {};  // of the program
};

/// Writes a slot of the cache; the file stands under its name only when it is whole. Throws Error(bad_input).
void write_session(
    const std::string& path, const LanguageModel& model, KvCache& cache, int64_t slot, const Session& session);

/// A file that was checked against its checksum and a model: Error(bad_input) when it is damaged or of another model.
class SessionFile {
 public:
  SessionFile(std::string path, const LanguageModel& model, const KvCacheShape& shape);
  ~SessionFile();

  const Session& session() const { return session_; }
  /// Fills a slot of a cache that has room for the tokens. What a damaged file leaves there is of no use.
  void read_into(KvCache& cache, int64_t slot) const;

 private:
  std::string path_;
  Session session_;
  std::string checksum_;
  std::unique_ptr<CheckpointReader> reader_;
};

}  // namespace weft
