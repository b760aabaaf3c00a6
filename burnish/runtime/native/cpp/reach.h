// How far from its pointers on a kernel reads and writes, from its arguments alone. Plans are data from anywhere: what
// they say is compared with the memory that there is before a kernel sees it.
#pragma once
#include <initializer_list>
#include <type_traits>

#include "abi.h"

constexpr i64 LARGEST_SIZE = i64{1} << 52;  // of anything: what kernels compute from such sizes does not overflow

struct Axis {
  i64 size, stride;
};

struct Axes {
  Axis axis[8];
  int count = 0;

  Axes(std::initializer_list<Axis> given) {
    for (const Axis& each : given) axis[count++] = each;
  }
};

// Axes of elements that lie in order.
static inline Axes in_order(std::initializer_list<i64> sizes) {
  Axes all = {};
  for (i64 size : sizes) all.axis[all.count++] = {size, 1};
  for (int i = all.count - 1; i > 0; i--) {
    const i64 size = all.axis[i].size > 1 ? all.axis[i].size : 1;
    if (__builtin_mul_overflow(all.axis[i].stride, size, &all.axis[i - 1].stride)) all.axis[i - 1].stride = LARGEST_SIZE + 1;
  }
  return all;
}

// An element as plans name it; null where a kernel takes any.
struct ElementType {
  const char* name;
  i64 bytes;
};
template <class T>
constexpr ElementType type_of() {
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, i64> || std::is_same_v<T, int32_t>, "say which type it is");
  return std::is_same_v<T, float> ? ElementType{"float32", 4} : std::is_same_v<T, i64> ? ElementType{"int64", 8} : ElementType{"int32", 4};
}

class Reach {
 public:
  const char* wrong = nullptr;  // what was needed first and is not so

  // Of each slot the bytes from its pointer on, and the type of the elements. `bytes` stays as it is for what no kernel uses.
  Reach(const void* arguments, i64* bytes, const char** types) : arguments(arguments), bytes(bytes), types(types) {}

  bool need(bool so, const char* what) {
    if (!so && !wrong) wrong = what;
    return !wrong;
  }

  bool sizes(std::initializer_list<i64> all) {
    for (i64 size : all) need(size >= 0 && size <= LARGEST_SIZE, "sizes that are not negative, and that memory can have");
    return !wrong;
  }

  bool element(i64 size) { return need(size == 1 || size == 2 || size == 4 || size == 8, "elements of 1, 2, 4 or 8 bytes"); }

  template <class T>
  void operand(T* const& pointer, const Axes& axes) { touched(&pointer, axes, type_of<std::remove_const_t<T>>()); }
  template <class T>
  void operand(T* const& pointer, const Axes& axes, ElementType type) { touched(&pointer, axes, type); }

  // The same for one that is written: each element is one of its own, so that there is as much work as memory, at most.
  template <class T>
  void result(T* const& pointer, const Axes& axes) { touched(&pointer, axes, type_of<T>(), true); }
  template <class T>
  void result(T* const& pointer, const Axes& axes, ElementType type) { touched(&pointer, axes, type, true); }

  // The same for one that may be missing.
  template <class T>
  void optional(T* const& pointer, const Axes& axes) {
    if (pointer) operand(pointer, axes);
  }

 private:
  const void* arguments;
  i64* bytes;
  const char** types;

  void touched(const void* slot, const Axes& axes, ElementType type, bool apart = false) {
    i64 last = 0, elements = 1;
    bool none = false;
    for (int i = 0; i < axes.count && !wrong; i++) {
      const Axis& axis = axes.axis[i];
      if (!need(axis.stride >= 0, "strides that are not negative") || !sizes({axis.size, axis.stride})) return;
      const i64 size = axis.size > 0 ? axis.size : 1;
      none |= axis.size == 0;
      i64 stretch;  // where nothing is touched, too, its numbers have to be ones to compute with
      const bool overflows = __builtin_mul_overflow(elements, size, &elements) || __builtin_mul_overflow(size, axis.stride, &stretch);
      if (overflows || !sizes({elements, stretch})) {
        need(false, "tensors that memory can have");
        return;
      }
      last += stretch - axis.stride;
    }
    if (apart && !none && !need(elements <= last + 1, "results whose elements are apart")) return;
    const i64 number = (static_cast<const char*>(slot) - static_cast<const char*>(arguments)) / 8;
    bytes[number] = none ? 0 : (last + 1) * type.bytes;
    types[number] = type.name;
  }
};

constexpr ElementType ANY_BYTE = {nullptr, 1};
