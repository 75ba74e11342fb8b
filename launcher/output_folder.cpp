#include "launcher/output_folder.h"

#include <filesystem>

#include "checkpoint/output_file.h"
#include "core/error.h"
#include "core/paths.h"

namespace weft {

namespace fs = std::filesystem;

OutputFolder::OutputFolder(std::string path)
    : path_(std::move(path)), partial_((fs::path(path_) / "").parent_path().string() + ".partial") {}

OutputFolder::~OutputFolder() {
  std::error_code ignored;
  if (is_unfinished_) fs::remove_all(partial_, ignored);
}

void OutputFolder::prepare() {
  std::error_code error;
  if (path_exists(path_) && !fs::is_empty(path_, error)) {
    fail_input("--out {}: exists already; name a new folder, or delete it", printable(path_));
  }
  fs::remove_all(partial_, error);
  if (!fs::create_directories(partial_, error) && error) {
    fail_input("--out {}: cannot be made: {}", printable(path_), error.message());
  }
  is_unfinished_ = true;
}

void OutputFolder::publish() {
  for (const fs::directory_entry& entry : fs::directory_iterator(partial_)) sync_file(entry.path().string());
  sync_directory(partial_);
  std::error_code ignored;
  fs::remove(path_, ignored);  // an empty folder
  rename_durably(partial_, path_);
  is_unfinished_ = false;
}

}  // namespace weft
