/* A PKCS#11 module for tests: hands every call on to the module that KMSD_SHIM_MODULE names, and fails, waits, lies,
 * goes away or kills its process where a test asks for it. A call that fails has worked before, which is the harder
 * case, unless the test asks for one that does not. Built by tests/support/shim.py.
 *
 * With KMSD_SHIM_CONTROL=FILE the state lies in that file, mapped: all processes that name it are bent together, by a
 * test that need not be one of them. */

#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef unsigned long U;
enum { FUNCTIONS = 68 };
/* Places in CK_FUNCTION_LIST. */
enum {
  INITIALIZE = 0, FINALIZE = 1, GET_INFO = 2, GET_FUNCTION_LIST = 3, GET_SLOT_LIST = 4, OPEN_SESSION = 12,
  CLOSE_ALL_SESSIONS = 14, GET_ATTRIBUTE_VALUE = 24, ENCRYPT_INIT = 29, ENCRYPT = 30, ENCRYPT_UPDATE = 31,
  GENERATE_RANDOM = 64
};
enum { AES_GCM = 0x1087, TAG = 16, AS_ASKED = -1 };
enum { FUNCTION_NOT_SUPPORTED = 0x54, MECHANISM_PARAM_INVALID = 0x71, BUFFER_TOO_SMALL = 0x150 };

struct list { unsigned char version[2]; void *function[FUNCTIONS]; };
struct attribute { U type; void *value; U length; };
struct mechanism { U mechanism; void *parameter; U length; };
struct gcm { unsigned char *iv; U iv_length, iv_bits; void *aad; U aad_length, tag_bits; };

struct state {
  volatile U fault[FUNCTIONS], delay_us[FUNCTIONS], calls[FUNCTIONS], hung, gone;
  /* Calls that still fail; 0: all. Calls until the one that kills its process; 0: none does. */
  volatile long fails_left[FUNCTIONS], deadly[FUNCTIONS];
  volatile int hang[FUNCTIONS], unworked[FUNCTIONS], dies_unworked[FUNCTIONS], own_iv, lie_extractable;
  volatile U null_ivs;
  /* Bytes of the IV that is appended to ciphertexts; AS_ASKED: 12 or 16, by ulIvBits. Is one of the caller's refused? */
  volatile int appended_iv, refuses_iv;
};

static struct list *real, ours;
static struct state own, *now = &own;
static volatile U slot_in_use;
static volatile int absent;

int shim_control(const char *path) {
  int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (file < 0 || ftruncate(file, sizeof own)) return -1;
  void *mapped = mmap(0, sizeof own, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  if (mapped == MAP_FAILED) return -1;
  now = mapped;
  return 0;
}
void shim_fault(int function, U rv, long times, int unworked) {
  now->fault[function] = 0;
  now->unworked[function] = unworked;
  now->fails_left[function] = times;
  now->fault[function] = rv;
}
void shim_die(int function, long call, int unworked) {
  now->dies_unworked[function] = unworked;
  now->deadly[function] = call;
}
void shim_delay(int function, U microseconds) { now->delay_us[function] = microseconds; }
void shim_hang(int function, int on) { now->hang[function] = on; }
void shim_gone(U rv) { now->gone = rv; }
void shim_own_iv(int on) { now->own_iv = on; }
void shim_append_iv(int length, int refuses) {
  now->appended_iv = length;
  now->refuses_iv = refuses;
}
void shim_lie(int on) { now->lie_extractable = on; }
U shim_calls(int function) { return now->calls[function]; }
U shim_null_ivs(void) { return now->null_ivs; }
U shim_hung(void) { return now->hung; }
void shim_reset(void) {
  U hung = now->hung;
  memset((void *)now, 0, sizeof *now);
  now->hung = hung;
}

typedef U (*anything)(U, U, U, U, U, U, U, U);
#define REAL(which) ((anything)real->function[which])

/* A device that is unplugged: the sessions are lost, and no slot has a token until it is back. */
static int away(int function, U *a, U *rv) {
  if (!now->gone || function == INITIALIZE || function == FINALIZE || function == GET_INFO) {
    absent = 0;
    return 0;
  }
  if (!__sync_lock_test_and_set(&absent, 1)) REAL(CLOSE_ALL_SESSIONS)(slot_in_use, 0, 0, 0, 0, 0, 0, 0);
  *rv = now->gone;
  if (function == GET_SLOT_LIST) { *(U *)a[2] = 0; *rv = 0; }
  return 1;
}

static void die_if_due(int function, int unworked) {
  if (now->deadly[function] && now->dies_unworked[function] == unworked
      && __sync_sub_and_fetch(&now->deadly[function], 1) == 0)
    kill(getpid(), SIGKILL);
}

static U fault_due(int function) {
  U rv = now->fault[function];
  if (!rv || !now->fails_left[function]) return rv;
  long left = __sync_sub_and_fetch(&now->fails_left[function], 1);
  if (left == 0) now->fault[function] = 0;
  return left >= 0 ? rv : 0;
}

/* AWS CloudHSM makes the nonce itself, of 12 bytes, and writes it where the caller's lay. */
static U put_own_iv(U session, struct gcm *gcm) {
  if (!gcm->iv) __sync_fetch_and_add(&now->null_ivs, 1);
  if (gcm->iv_length != 12) return MECHANISM_PARAM_INVALID;
  REAL(GENERATE_RANDOM)(session, (U)gcm->iv, 12, 0, 0, 0, 0, 0);
  gcm->iv[0] = 0xF1;
  return 0;
}

/* Encryptions under way whose IV will be appended, one for each session; session 0: a free place. */
enum { PLACES = 256 };
static struct appending { volatile U session; U length; unsigned char iv[16]; } appending[PLACES];

static struct appending *appending_of(U session) {
  for (int i = 0; i < PLACES; i++)
    if (appending[i].session == session) return appending + i;
  return 0;
}

static struct appending *free_place(U session) {
  for (int i = 0; i < PLACES; i++)
    if (__sync_bool_compare_and_swap(&appending[i].session, 0, session)) return appending + i;
  abort();
}

/* Thales Luna in FIPS mode: the IV of an encryption is the token's, whatever the caller gives. The caller's parameter
 * stays as it is. */
static U init_appending(U *a) {
  struct gcm copy = *(struct gcm *)((struct mechanism *)a[1])->parameter;
  struct mechanism mechanism = {AES_GCM, &copy, sizeof copy};
  if (now->refuses_iv && copy.iv_length) return MECHANISM_PARAM_INVALID;
  struct appending *place = free_place(a[0]);
  U length = now->appended_iv == AS_ASKED ? (copy.iv_bits == 96 ? 12 : 16) : now->appended_iv;
  U rv = REAL(GENERATE_RANDOM)(a[0], (U)place->iv, length, 0, 0, 0, 0, 0);
  copy.iv = place->iv;
  copy.iv_length = length;
  copy.iv_bits = 8 * length;
  if (!rv) rv = REAL(ENCRYPT_INIT)(a[0], (U)&mechanism, a[2], 0, 0, 0, 0, 0);
  place->length = length;
  if (rv) place->session = 0;
  return rv;
}

static U encrypt_appending(struct appending *place, U *a) {
  U *room = (U *)a[4], whole = a[2] + TAG + place->length, written, rv;
  if (!a[3] || *room < whole) {
    rv = a[3] ? BUFFER_TOO_SMALL : 0;
    *room = whole;
    return rv;
  }
  written = *room - place->length;
  rv = REAL(ENCRYPT)(a[0], a[1], a[2], a[3], (U)&written, 0, 0, 0);
  if (!rv) {
    memcpy((unsigned char *)a[3] + written, place->iv, place->length);
    *room = written + place->length;
  }
  place->session = 0;
  return rv;
}

static U act(int function, U *a) {
  struct appending *place = 0;
  if (function == ENCRYPT_INIT || function == ENCRYPT || function == ENCRYPT_UPDATE) place = appending_of(a[0]);
  if (place && function == ENCRYPT) return encrypt_appending(place, a);
  if (place && function == ENCRYPT_UPDATE) return FUNCTION_NOT_SUPPORTED;
  if (function == ENCRYPT_INIT) {
    struct mechanism *mechanism = (struct mechanism *)a[1];
    /* The session of an operation that was never finished was closed, and its number is in use again. */
    if (place) place->session = 0;
    if (mechanism->mechanism == AES_GCM && now->appended_iv) return init_appending(a);
    U rv = mechanism->mechanism == AES_GCM && now->own_iv ? put_own_iv(a[0], mechanism->parameter) : 0;
    if (rv) return rv;
  }
  return REAL(function)(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]);
}

/* A token that ignores EXTRACTABLE=False, as opencryptoki does on C_UnwrapKey. */
static void lie(struct attribute *attributes, U count) {
  for (U i = 0; i < count; i++)
    if (attributes[i].type == 0x162 && attributes[i].value && attributes[i].length == 1)
      *(unsigned char *)attributes[i].value = 1;
}

static U bent(int function, U *a) {
  U rv = 0, fault;
  if (away(function, a, &rv)) return rv;
  die_if_due(function, 1);
  fault = fault_due(function);
  if (!(fault && now->unworked[function])) rv = act(function, a);
  if (function == GET_ATTRIBUTE_VALUE && now->lie_extractable) lie((struct attribute *)a[2], a[3]);
  if (function == OPEN_SESSION && !rv) slot_in_use = a[0];
  die_if_due(function, 0);
  __sync_fetch_and_add(&now->calls[function], 1);
  if (now->delay_us[function]) usleep(now->delay_us[function]);
  if (now->hang[function]) {
    __sync_fetch_and_add(&now->hung, 1);
    while (now->hang[function]) usleep(500);
    __sync_fetch_and_sub(&now->hung, 1);
  }
  return fault ? fault : rv;
}

/* No function of PKCS#11 2.40 has more than eight arguments, all as wide as a register; more than it wants do no harm. */
#define BENT(n) \
  static U bent_##n(U a, U b, U c, U d, U e, U f, U g, U h) { U all[] = {a, b, c, d, e, f, g, h}; return bent(n, all); }
#define PUT(n) ours.function[n] = bent_##n;
#define TEN(X, n) X(n##0) X(n##1) X(n##2) X(n##3) X(n##4) X(n##5) X(n##6) X(n##7) X(n##8) X(n##9)
#define ALL(X) X(0) X(1) X(2) X(4) X(5) X(6) X(7) X(8) X(9) TEN(X, 1) TEN(X, 2) TEN(X, 3) TEN(X, 4) TEN(X, 5) \
  X(60) X(61) X(62) X(63) X(64) X(65) X(66) X(67)
ALL(BENT)

/* KMSD_SHIM_DELAYS="30:1000 34:1000": microseconds for each call of a function, in processes that nobody can reach into. */
static void delays_of_environment(void) {
  const char *text = getenv("KMSD_SHIM_DELAYS");
  int function, taken;
  U microseconds;
  while (text && sscanf(text, "%d:%lu%n", &function, &microseconds, &taken) == 2) {
    if (function > 0 && function < FUNCTIONS) now->delay_us[function] = microseconds;
    text += taken;
  }
}

U C_GetFunctionList(struct list **list) {
  if (!real) {
    const char *control = getenv("KMSD_SHIM_CONTROL");
    if (control && shim_control(control)) return 5;
    delays_of_environment();
    void *module = dlopen(getenv("KMSD_SHIM_MODULE"), RTLD_NOW);
    U (*get)(struct list **) = module ? (U (*)(struct list **))dlsym(module, "C_GetFunctionList") : 0;
    if (!get || get(&real)) return 5;
    ours = *real;
    ours.function[GET_FUNCTION_LIST] = C_GetFunctionList;
    ALL(PUT)
  }
  *list = &ours;
  return 0;
}
