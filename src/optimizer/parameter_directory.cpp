#include "optimizer/parameter_directory.h"

#include <algorithm>
#include <map>
#include <sstream>

#include "parallel/agreement.h"
#include "parallel/communicator.h"

namespace weft {
namespace {

/// A line a piece: tensor rank, data rank, begin, end, block, shard, dims, name.
std::string describe(const std::vector<OptimizerPiece>& pieces, int tensor_rank, int data_rank) {
  std::ostringstream text;
  for (const OptimizerPiece& piece : pieces) {
    const Parameter& parameter = *piece.parameter;
    const Shard& shard = parameter.shard;
    text << tensor_rank << ' ' << data_rank << ' ' << piece.begin << ' ' << piece.end << ' ' << parameter.block << ' '
         << static_cast<int>(shard.kind) << ' ' << shard.num_heads << ' ' << shard.num_kv_heads << ' '
         << parameter.full_shape.rank();
    for (int64_t dim : parameter.full_shape) text << ' ' << dim;
    text << ' ' << parameter.name << '\n';
  }
  return text.str();
}

void parse_line(const std::string& line, std::map<std::string, DirectoryParameter>& parameters) {
  std::istringstream words(line);
  HeldRun run;
  DirectoryParameter parameter;
  int kind = 0, rank = 0;
  words >> run.tensor_rank >> run.data_rank >> run.begin >> run.end >> parameter.block >> kind >>
      parameter.shard.num_heads >> parameter.shard.num_kv_heads >> rank;
  parameter.shard.kind = static_cast<ShardKind>(kind);
  std::vector<int64_t> dims(static_cast<size_t>(rank));
  for (int64_t& dim : dims) words >> dim;
  parameter.full_shape = Shape(dims.data(), dims.data() + dims.size());
  words.get();
  std::getline(words, parameter.name);
  std::string name = parameter.name;
  parameters.try_emplace(name, std::move(parameter)).first->second.runs.push_back(run);
}

}  // namespace

ParameterDirectory::ParameterDirectory(const std::vector<OptimizerPiece>& pieces,
                                       TensorParallelPlace place,
                                       const PieceSharing& sharing) {
  auto texts_of = [](Communicator* group, const std::string& text) {
    return group == nullptr ? std::vector{text} : gather_texts(*group, text);
  };
  int data_rank = sharing.data_parallel == nullptr ? 0 : sharing.data_parallel->rank();
  std::string text;
  for (const std::string& part : texts_of(sharing.data_parallel, describe(pieces, place.rank, data_rank))) {
    text += part;
  }
  std::map<std::string, DirectoryParameter> by_name;
  for (const std::string& part : texts_of(sharing.tensor_parallel, text)) {
    std::istringstream lines(part);
    for (std::string line; std::getline(lines, line);) parse_line(line, by_name);
  }
  for (auto& [name, parameter] : by_name) parameters_.push_back(std::move(parameter));
}

size_t ParameterDirectory::index(const std::string& name) const {
  auto found = std::lower_bound(
      parameters_.begin(), parameters_.end(), name, [](const DirectoryParameter& parameter, const std::string& wanted) {
        return parameter.name < wanted;
      });
  WEFT_ASSERT(found != parameters_.end() && found->name == name, "{}", name);
  return static_cast<size_t>(found - parameters_.begin());
}

}  // namespace weft
