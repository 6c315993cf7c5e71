// What jemalloc is told, in every program that is linked with it: docs/decisions/0026. MALLOC_CONF in the environment goes first.

extern "C" {
/// Memory comes in huge pages where the system gives them to who asks (transparent_hugepage: madvise): a seventh of the page faults. And
/// from one arena: each has huge pages of its own, of which a part is never used.
extern const char* malloc_conf;
const char* malloc_conf = "thp:always,narenas:1";
}
