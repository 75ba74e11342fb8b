# cmake -DINPUT=run.descriptors -DOUTPUT=run_schema.cpp -P embed_schema.cmake: a file as the definition of what
# config/schema_bytes.h declares.
file(READ "${INPUT}" bytes HEX)
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${bytes}")
file(WRITE "${OUTPUT}" "#include \"config/schema_bytes.h\"

namespace weft {
namespace {

constexpr unsigned char kBytes[] = {${bytes}};

}  // namespace

std::string_view schema_bytes() {
  return {reinterpret_cast<const char*>(kBytes), sizeof(kBytes)};
}

}  // namespace weft
")
