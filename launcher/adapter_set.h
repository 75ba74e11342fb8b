// The adapters of a command line: all loaded, one or none in use.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "models/adapter_file.h"

namespace weft {

class AdapterSet {
 public:
  static constexpr int kNone = -1;

  /// Each flag is DIR or NAME=DIR; without a name it is the folder's. The first one is used unless `use` names another,
  /// or "none". Throws Error(usage) for names that are unknown or given twice, Error(bad_input) for the folders.
  AdapterSet(const Context& context,
             LanguageModel& model,
             const std::vector<std::string>& flags,
             const std::string& use,
             DType dtype);
  ~AdapterSet();

  /// Index of a name, kNone for "none". Throws Error(usage) with the names that there are.
  int find(const std::string& name) const;
  /// Switches on every later forward; what a cache holds is of the adapter before. Every rank switches alike.
  void use(int index);
  std::string names() const;

 private:
  struct Loaded {
    std::string name;
    std::unique_ptr<Adapter> adapter;
    std::vector<ReplacedParameter> replaced;
  };
  void exchange_replaced();

  std::vector<Loaded> loaded_;
  int used_ = kNone;
};

}  // namespace weft
