/* An init, or a halt, that hears nothing and never ends. */
#include <unistd.h>
int main(void) {
    for (;;) pause();
}
