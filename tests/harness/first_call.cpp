// Linked to what is built with ThreadSanitizer, whose runtime notes a signal and calls its handler
// at the next call that may sleep. Where to note it is allocated by a thread's first such call, and
// a signal that comes in that very moment is lost (seen with gcc 12; kill(2) loses none). So the
// first one is made here, before main() has caught any signal.

#include <poll.h>

namespace {
[[maybe_unused]] const int slept = ::poll(nullptr, 0, 0);
}
