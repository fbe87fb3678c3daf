#include "cache/build_id.h"

#include <elf.h>
#include <link.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace gaitcrafter {
namespace {

struct Search {
  uintptr_t address;  // lies in the object that is looked for
  std::string id;
};

bool holds(const dl_phdr_info& object, uintptr_t address) {
  for (int i = 0; i < object.dlpi_phnum; ++i) {
    const auto& part = object.dlpi_phdr[i];
    const uintptr_t begin = object.dlpi_addr + part.p_vaddr;
    if (part.p_type == PT_LOAD && address >= begin && address - begin < part.p_memsz) return true;
  }
  return false;
}

std::string id_in_notes(const std::byte* at, size_t bytes) {
  const auto padded = [](size_t n) { return (n + 3) / 4 * 4; };
  ElfW(Nhdr) note;
  while (bytes >= sizeof note) {
    std::memcpy(&note, at, sizeof note);
    const size_t name = padded(note.n_namesz), text = padded(note.n_descsz);
    if (bytes - sizeof note < name || bytes - sizeof note - name < text) break;
    const std::byte *first = at + sizeof note, *id = first + name;
    if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == 4 && std::memcmp(first, "GNU", 4) == 0) {
      std::string hex;
      for (size_t i = 0; i < note.n_descsz; ++i) {
        hex += "0123456789abcdef"[std::to_integer<int>(id[i]) >> 4];
        hex += "0123456789abcdef"[std::to_integer<int>(id[i]) & 15];
      }
      return hex;
    }
    at = id + text;
    bytes -= sizeof note + name + text;
  }
  return {};
}

int visit(dl_phdr_info* object, size_t, void* data) {
  Search& search = *static_cast<Search*>(data);
  if (!holds(*object, search.address)) return 0;
  for (int i = 0; i < object->dlpi_phnum && search.id.empty(); ++i) {
    const auto& part = object->dlpi_phdr[i];
    if (part.p_type != PT_NOTE) continue;
    // The loader tells addresses as numbers.
    const auto* notes =
        reinterpret_cast<const std::byte*>(object->dlpi_addr + part.p_vaddr);  // NOLINT(*-no-int-to-ptr)
    search.id = id_in_notes(notes, part.p_memsz);
  }
  return 1;
}

}  // namespace

const std::string& build_id() {
  static const std::string id = [] {
    Search search{reinterpret_cast<uintptr_t>(&visit), {}};
    ::dl_iterate_phdr(&visit, &search);
    return search.id;
  }();
  return id;
}

}  // namespace gaitcrafter
