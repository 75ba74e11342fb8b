// manifest.json: what a whole checkpoint consists of.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace weft {

struct ManifestFile {
  std::string name;  // relative to the checkpoint's folder
  int64_t bytes = 0;
  std::string checksum;  // checkpoint/checksum.h
};

/// The files in a folder and its sub-folders except the manifest, sorted.
std::vector<std::string> list_checkpoint_files(const std::string& folder);

/// Writes the manifest; it is on the disk on return.
void write_manifest(const std::string& folder, const std::vector<ManifestFile>& files);
/// Throws Error(bad_input) when there is none or it is damaged.
std::vector<ManifestFile> read_manifest(const std::string& folder);

/// Throws Error(bad_input) for the first file that is missing or of another size than the manifest says, or, of those
/// with index % num_parts == part, whose checksum differs.
void verify_manifest(const std::string& folder, size_t part, size_t num_parts);

}  // namespace weft
