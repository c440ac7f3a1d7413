#include "tests/fakes/cuda/kernel_name.h"

#include <cxxabi.h>
#include <dlfcn.h>
#include <elf.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <vector>

namespace spillway::fakes::cuda {
namespace {

// `count` values of a file from `offset` on; none where it has no such.
template <typename T>
std::vector<T> Read(std::ifstream& file, uint64_t offset, uint64_t count) {
  std::vector<T> values(count);
  file.seekg(static_cast<std::streamoff>(offset));
  file.read(reinterpret_cast<char*>(values.data()), static_cast<std::streamsize>(count * sizeof(T)));
  if (!file) values.clear();
  return values;
}

// The name of the function at `address` in the file's own table of symbols: kernels are in no other, as
// nothing outside of their source sees them. "": it is not there.
std::string SymbolAt(std::ifstream& file, uint64_t address) {
  const auto header = Read<Elf64_Ehdr>(file, 0, 1);
  if (header.empty() || std::memcmp(header[0].e_ident, ELFMAG, SELFMAG) != 0) return "";
  const auto sections = Read<Elf64_Shdr>(file, header[0].e_shoff, header[0].e_shnum);
  for (const Elf64_Shdr& table : sections) {
    if (table.sh_type != SHT_SYMTAB || table.sh_link >= sections.size()) continue;
    for (const Elf64_Sym& symbol :
         Read<Elf64_Sym>(file, table.sh_offset, table.sh_size / sizeof(Elf64_Sym))) {
      if (symbol.st_value != address || ELF64_ST_TYPE(symbol.st_info) != STT_FUNC) continue;
      const Elf64_Shdr& names = sections[table.sh_link];
      if (symbol.st_name >= names.sh_size) return "";
      const auto text = Read<char>(file, names.sh_offset + symbol.st_name, names.sh_size - symbol.st_name);
      return {text.data(), strnlen(text.data(), text.size())};
    }
  }
  return "";
}

}  // namespace

std::string NameOfKernel(const void* kernel) {
  Dl_info object;
  std::string symbol;
  if (dladdr(kernel, &object) != 0) {
    const uint64_t address =
        reinterpret_cast<uint64_t>(kernel) - reinterpret_cast<uint64_t>(object.dli_fbase);
    // The program's own name may be relative to a folder that it has left.
    for (const char* path : {object.dli_fname, "/proc/self/exe"}) {
      std::ifstream file(path, std::ios::binary);
      if (file && symbol.empty()) symbol = SymbolAt(file, address);
    }
  }
  if (symbol.empty()) return "a kernel whose name was stripped";
  int status = 0;
  char* const demangled = abi::__cxa_demangle(symbol.c_str(), nullptr, nullptr, &status);
  if (demangled == nullptr) return symbol;
  std::string name = demangled;
  std::free(demangled);
  return name;
}

}  // namespace spillway::fakes::cuda
