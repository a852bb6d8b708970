/* A PKCS#11 module for tests: hands every call on to the module that KMSD_SHIM_MODULE names, and fails, waits or lies
 * where a test asks for it. A call that fails has worked before: the harder case. Built by tests/contract/shim.py. */

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long U;
enum { FUNCTIONS = 68 };
/* Places in CK_FUNCTION_LIST. */
enum {
  GET_FUNCTION_LIST = 3, OPEN_SESSION = 12, LOGIN = 18, CREATE_OBJECT = 20, DESTROY_OBJECT = 22, GET_ATTRIBUTE_VALUE = 24,
  FIND_OBJECTS_INIT = 26, ENCRYPT_INIT = 29, ENCRYPT = 30, DECRYPT_INIT = 33, DECRYPT = 34, SIGN = 43,
  GENERATE_KEY = 58, DERIVE_KEY = 62, GENERATE_RANDOM = 64
};

struct list { unsigned char version[2]; void *function[FUNCTIONS]; };
struct attribute { U type; void *value; U length; };
struct mechanism { U mechanism; void *parameter; U length; };
struct gcm { unsigned char *iv; U iv_length; };

static struct list *real, ours;
static volatile U fault[FUNCTIONS], delay_us[FUNCTIONS], calls[FUNCTIONS], hung;
static volatile int hang[FUNCTIONS], own_iv, lie_extractable;

void shim_fault(int function, U rv) { fault[function] = rv; }
void shim_delay(int function, U microseconds) { delay_us[function] = microseconds; }
void shim_hang(int function, int on) { hang[function] = on; }
void shim_own_iv(int on) { own_iv = on; }
void shim_lie(int on) { lie_extractable = on; }
U shim_calls(int function) { return calls[function]; }
U shim_hung(void) { return hung; }
void shim_reset(void) {
  memset((void *)fault, 0, sizeof fault); memset((void *)delay_us, 0, sizeof delay_us);
  memset((void *)calls, 0, sizeof calls); memset((void *)hang, 0, sizeof hang);
  own_iv = lie_extractable = 0;
}

static U after(int function, U rv) {
  __sync_fetch_and_add(&calls[function], 1);
  if (delay_us[function]) usleep(delay_us[function]);
  if (hang[function]) {
    __sync_fetch_and_add(&hung, 1);
    while (hang[function]) usleep(500);
    __sync_fetch_and_sub(&hung, 1);
  }
  return fault[function] ? fault[function] : rv;
}

#define REAL(which) ((U (*)())real->function[which])
#define FORWARD2(name, function) static U name(U a, U b) { return after(function, REAL(function)(a, b)); }
#define FORWARD3(name, function) static U name(U a, U b, U c) { return after(function, REAL(function)(a, b, c)); }
#define FORWARD4(name, function) \
  static U name(U a, U b, U c, U d) { return after(function, REAL(function)(a, b, c, d)); }
#define FORWARD5(name, function) \
  static U name(U a, U b, U c, U d, U e) { return after(function, REAL(function)(a, b, c, d, e)); }
#define FORWARD6(name, function) \
  static U name(U a, U b, U c, U d, U e, U f) { return after(function, REAL(function)(a, b, c, d, e, f)); }

FORWARD5(open_session, OPEN_SESSION)
FORWARD4(login, LOGIN)
FORWARD4(create_object, CREATE_OBJECT)
FORWARD2(destroy_object, DESTROY_OBJECT)
FORWARD3(find_objects_init, FIND_OBJECTS_INIT)
FORWARD5(encrypt, ENCRYPT)
FORWARD3(decrypt_init, DECRYPT_INIT)
FORWARD5(decrypt, DECRYPT)
FORWARD5(sign, SIGN)
FORWARD5(generate_key, GENERATE_KEY)
FORWARD6(derive_key, DERIVE_KEY)
FORWARD3(generate_random, GENERATE_RANDOM)

/* A token in FIPS mode makes the nonce itself, and writes it where the caller's lay. */
static U encrypt_init(U session, struct mechanism *mechanism, U key) {
  if (own_iv && mechanism->mechanism == 0x1087) {
    struct gcm *gcm = mechanism->parameter;
    REAL(GENERATE_RANDOM)(session, gcm->iv, gcm->iv_length);
    gcm->iv[0] = 0xF1;
  }
  return after(ENCRYPT_INIT, REAL(ENCRYPT_INIT)(session, mechanism, key));
}

/* A token that ignores EXTRACTABLE=False, as opencryptoki does on C_UnwrapKey. */
static U get_attribute_value(U session, U object, struct attribute *attributes, U count) {
  U rv = REAL(GET_ATTRIBUTE_VALUE)(session, object, attributes, count);
  for (U i = 0; lie_extractable && i < count; i++)
    if (attributes[i].type == 0x162 && attributes[i].value && attributes[i].length == 1)
      *(unsigned char *)attributes[i].value = 1;
  return after(GET_ATTRIBUTE_VALUE, rv);
}

/* KMSD_SHIM_DELAYS="30:1000 34:1000": microseconds for each call of a function, in processes that nobody can reach into. */
static void delays_of_environment(void) {
  const char *text = getenv("KMSD_SHIM_DELAYS");
  int function, taken;
  U microseconds;
  while (text && sscanf(text, "%d:%lu%n", &function, &microseconds, &taken) == 2) {
    if (function > 0 && function < FUNCTIONS) delay_us[function] = microseconds;
    text += taken;
  }
}

U C_GetFunctionList(struct list **list) {
  if (!real) {
    delays_of_environment();
    void *module = dlopen(getenv("KMSD_SHIM_MODULE"), RTLD_NOW);
    U (*get)(struct list **) = module ? (U (*)(struct list **))dlsym(module, "C_GetFunctionList") : 0;
    if (!get || get(&real)) return 5;
    ours = *real;
    ours.function[GET_FUNCTION_LIST] = C_GetFunctionList;
    ours.function[OPEN_SESSION] = open_session;
    ours.function[LOGIN] = login;
    ours.function[CREATE_OBJECT] = create_object;
    ours.function[DESTROY_OBJECT] = destroy_object;
    ours.function[GET_ATTRIBUTE_VALUE] = get_attribute_value;
    ours.function[FIND_OBJECTS_INIT] = find_objects_init;
    ours.function[ENCRYPT_INIT] = encrypt_init;
    ours.function[ENCRYPT] = encrypt;
    ours.function[DECRYPT_INIT] = decrypt_init;
    ours.function[DECRYPT] = decrypt;
    ours.function[SIGN] = sign;
    ours.function[GENERATE_KEY] = generate_key;
    ours.function[DERIVE_KEY] = derive_key;
    ours.function[GENERATE_RANDOM] = generate_random;
  }
  *list = &ours;
  return 0;
}
