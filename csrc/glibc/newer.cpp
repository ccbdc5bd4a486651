// Symbols that newer compilers and headers use, and that libraries from before 2020 do not have. The module has its
// own, so that it loads there too.
#include <new>

#ifdef __GLIBCXX__
namespace std {

// libstdc++ 11: called where an array would be too large.
void __throw_bad_array_new_length() { throw bad_array_new_length(); }

} // namespace std
#endif

#ifdef __GLIBC__
// glibc 2.32: whether the process has one thread. With "no" reference counts are always changed atomically.
extern "C" __attribute__((visibility("hidden"))) char __libc_single_threaded;
char __libc_single_threaded = 0;
#endif
