/* An ELF "interpreter" without a C library: started for a program that it did not choose, it says which, and whether
 * it can be read and written.  For "#!/proc/self/exe" in place of a shell. */
static long call(long nr, long a, long b, long c) {
    long result;
#ifdef __x86_64__
    asm volatile("syscall" : "=a"(result) : "a"(nr), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
#else
    register long x8 asm("x8") = nr, x0 asm("x0") = a, x1 asm("x1") = b, x2 asm("x2") = c, x3 asm("x3") = 0;
    asm volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
    result = x0;
#endif
    return result;
}
#ifdef __x86_64__
enum { WRITE = 1, EXIT = 231 };
static long openfile(const char *path, long flags) { return call(2, (long)path, flags, 0); }
static long link_of(const char *path, char *to) { return call(89, (long)path, (long)to, 255); }
#else
enum { WRITE = 64, EXIT = 94 };
static long openfile(const char *path, long flags) { return call(56, -100, (long)path, flags); }
static long link_of(const char *path, char *to) {
    register long x8 asm("x8") = 78, x0 asm("x0") = -100, x1 asm("x1") = (long)path, x2 asm("x2") = (long)to, x3 asm("x3") = 255;
    asm volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
    return x0;
}
#endif
static long log_fd;
static void put(const char *text, long length) {
    call(WRITE, 1, (long)text, length);
    call(WRITE, log_fd, (long)text, length);
}
__attribute__((visibility("hidden"))) void start(void) {
    char link[256];
    log_fd = openfile("/interpreter.log", 1 | 02000); /* write, append */
    long length = link_of("/proc/self/exe", link);
    put("exe ", 4);
    if (length > 0) put(link, length);
    if (openfile("/proc/self/exe", 0) >= 0) put(" read", 5);
    if (openfile("/proc/self/exe", 2) >= 0) put(" write", 6);
    put("\n", 1);
    call(EXIT, 0, 0, 0);
}
#ifdef __x86_64__
asm(".globl _start\n_start: and $-16, %rsp\n call start\n");
#else
asm(".globl _start\n_start: bl start\n");
#endif
