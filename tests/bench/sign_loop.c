/* Sign as fast as one thread can, with nothing but the module: sign_loop MODULE PIN OBJECT_ID_HEX SECONDS
   Prints the number of signatures. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef unsigned long ulong_t;
typedef ulong_t (*function_t)();
struct attribute { ulong_t type; void *value; ulong_t length; };
struct mechanism { ulong_t type; void *parameter; ulong_t length; };
struct arguments { void *mutexes[4]; ulong_t flags; void *reserved; };
enum { INITIALIZE = 0, GET_SLOT_LIST = 4, OPEN_SESSION = 12, LOGIN = 18, FIND_INIT = 26, FIND = 27, FIND_FINAL = 28,
       SIGN_INIT = 42, SIGN = 43 };
enum { CKA_CLASS = 0, CKA_ID = 0x102, CKO_PRIVATE_KEY = 3, CKM_ECDSA = 0x1041 };

static void must(ulong_t rv, const char *what) {
    if (rv) { fprintf(stderr, "%s: 0x%lx\n", what, rv); exit(1); }
}

int main(int count, char **words) {
    if (count != 5) return 2;
    void *module = dlopen(words[1], RTLD_NOW);
    if (!module) { fprintf(stderr, "%s\n", dlerror()); return 1; }
    struct { unsigned char major, minor; function_t call[92]; } *list;
    must(((ulong_t (*)(void *))dlsym(module, "C_GetFunctionList"))(&list), "C_GetFunctionList");
    function_t *call = list->call;
    struct arguments arguments = { {0}, 2, 0 };
    ulong_t slots[8], found_slots = 8, session, key, found;
    must(call[INITIALIZE](&arguments), "C_Initialize");
    must(call[GET_SLOT_LIST](1, slots, &found_slots), "C_GetSlotList");
    must(call[OPEN_SESSION](slots[0], 4UL, 0, 0, &session), "C_OpenSession");
    must(call[LOGIN](session, 1UL, words[2], strlen(words[2])), "C_Login");
    unsigned char id[16], digest[32] = {1}, signature[128];
    for (int i = 0; i < 16; i++) { unsigned byte; sscanf(words[3] + 2 * i, "%2x", &byte); id[i] = byte; }
    ulong_t class = CKO_PRIVATE_KEY;
    struct attribute wanted[2] = { { CKA_CLASS, &class, sizeof class }, { CKA_ID, id, sizeof id } };
    must(call[FIND_INIT](session, wanted, 2UL), "C_FindObjectsInit");
    must(call[FIND](session, &key, 1UL, &found), "C_FindObjects");
    must(call[FIND_FINAL](session), "C_FindObjectsFinal");
    if (!found) { fprintf(stderr, "no such key\n"); return 1; }
    struct mechanism ecdsa = { CKM_ECDSA, 0, 0 };
    struct timespec begin, now;
    double seconds = atof(words[4]);
    long done = 0;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    do {
        for (int i = 0; i < 100; i++, done++) {
            ulong_t length = sizeof signature;
            must(call[SIGN_INIT](session, &ecdsa, key), "C_SignInit");
            must(call[SIGN](session, digest, 32UL, signature, &length), "C_Sign");
        }
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while (now.tv_sec - begin.tv_sec + (now.tv_nsec - begin.tv_nsec) / 1e9 < seconds);
    printf("%f\n", done / (now.tv_sec - begin.tv_sec + (now.tv_nsec - begin.tv_nsec) / 1e9));
    return 0;
}
