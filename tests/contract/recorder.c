/* A PKCS#11 module for tests: hands every call on to a real module, and writes down every buffer that a call returns.
 *
 * Beside the library lies a file of its name with `.real` added, which names the real module; what was returned is
 * appended to the one with `.out`: function, length, bytes. Every function of CK_FUNCTION_LIST that gives data other
 * than handles and descriptions of slots is watched, and C_EncapsulateKey. Where a call of C_GetAttributeValue returns
 * the value of a secret or private key, there is a note of its own: the function that had returned the key's handle.
 * Built by tests/support/call_recorder.py. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long U;
typedef unsigned char B;
enum { FUNCTIONS = 68, FUNCTIONS_3_2 = 94 };
enum {
  GET_FUNCTION_LIST = 3, GET_TOKEN_INFO = 6, GET_OPERATION_STATE = 16, CREATE_OBJECT = 20, COPY_OBJECT = 21,
  GET_ATTRIBUTE_VALUE = 24, FIND_OBJECTS = 27, ENCRYPT = 30,
  ENCRYPT_UPDATE = 31, ENCRYPT_FINAL = 32, DECRYPT = 34, DECRYPT_UPDATE = 35, DECRYPT_FINAL = 36, DIGEST = 38,
  DIGEST_FINAL = 41, SIGN = 43, SIGN_FINAL = 45, SIGN_RECOVER = 47, VERIFY_RECOVER = 53, DIGEST_ENCRYPT_UPDATE = 54,
  DECRYPT_DIGEST_UPDATE = 55, SIGN_ENCRYPT_UPDATE = 56, DECRYPT_VERIFY_UPDATE = 57, GENERATE_KEY = 58,
  GENERATE_KEY_PAIR = 59, WRAP_KEY = 60, UNWRAP_KEY = 61, DERIVE_KEY = 62, GENERATE_RANDOM = 64, ENCAPSULATE_KEY = 92,
  DECAPSULATE_KEY = 93, KEY_VALUE = 200
};
enum { CKA_CLASS = 0, CKA_VALUE = 0x11, CKA_PRIVATE_EXPONENT = 0x123, CKA_COEFFICIENT = 0x128 };
enum { PRIVATE_KEY = 3, SECRET_KEY = 4, ORIGINS = 1 << 16 };
struct list { B version[2]; void *function[FUNCTIONS]; };
struct list_3_2 { B version[2]; void *function[FUNCTIONS_3_2]; };
struct interface { char *name; void *list; U flags; };
struct attribute { U type; void *value; U length; };

static struct list *real, ours;
static struct list_3_2 *real_3_2, ours_3_2;
static struct interface interface_3_2;
static void *module;
static int out = -1;
static pthread_mutex_t one = PTHREAD_MUTEX_INITIALIZER;

static void note(U function, const void *data, U length) {
  pthread_mutex_lock(&one);
  U head[2] = {function, length};
  if (write(out, head, sizeof head) != sizeof head || (length && write(out, data, length) != (ssize_t)length)) _exit(99);
  pthread_mutex_unlock(&one);
}

#define REAL(which) ((U (*)())real->function[which])
/* (session, data, data length, out, out length) */
#define FIVE(name, which)                                 \
  static U name(U s, U d, U n, B *o, U *m) {              \
    U rv = REAL(which)(s, d, n, o, m);                    \
    if (!rv && o && m) note(which, o, *m);                \
    return rv;                                            \
  }
/* (session, out, out length) */
#define THREE(name, which)                                \
  static U name(U s, B *o, U *m) {                        \
    U rv = REAL(which)(s, o, m);                          \
    if (!rv && o && m) note(which, o, *m);                \
    return rv;                                            \
  }
THREE(get_operation_state, GET_OPERATION_STATE)
FIVE(encrypt, ENCRYPT)
FIVE(encrypt_update, ENCRYPT_UPDATE)
THREE(encrypt_final, ENCRYPT_FINAL)
FIVE(decrypt, DECRYPT)
FIVE(decrypt_update, DECRYPT_UPDATE)
THREE(decrypt_final, DECRYPT_FINAL)
FIVE(digest, DIGEST)
THREE(digest_final, DIGEST_FINAL)
FIVE(sign, SIGN)
THREE(sign_final, SIGN_FINAL)
FIVE(sign_recover, SIGN_RECOVER)
FIVE(verify_recover, VERIFY_RECOVER)
FIVE(digest_encrypt_update, DIGEST_ENCRYPT_UPDATE)
FIVE(decrypt_digest_update, DECRYPT_DIGEST_UPDATE)
FIVE(sign_encrypt_update, SIGN_ENCRYPT_UPDATE)
FIVE(decrypt_verify_update, DECRYPT_VERIFY_UPDATE)

/* The function that has returned each handle last; tokens number them one after the other. */
static struct { U handle, function; } origins[ORIGINS];

static U made(U function, U rv, const U *handle) {
  if (!rv && handle) {
    origins[*handle % ORIGINS].handle = *handle;
    origins[*handle % ORIGINS].function = function;
  }
  return rv;
}

static U origin_of(U handle) {
  return origins[handle % ORIGINS].handle == handle ? origins[handle % ORIGINS].function : 0;
}

static int is_value(U type) {
  return type == CKA_VALUE || (type >= CKA_PRIVATE_EXPONENT && type <= CKA_COEFFICIENT);
}

static U get_attribute_value(U session, U object, struct attribute *wanted, U count) {
  U class = 0, origin = origin_of(object);
  struct attribute of_class = {CKA_CLASS, &class, sizeof class};
  U rv = REAL(GET_ATTRIBUTE_VALUE)(session, object, wanted, count);
  for (U i = 0; i < count; i++) {
    if (!wanted[i].value || wanted[i].length == (U)-1) continue;
    note(GET_ATTRIBUTE_VALUE, wanted[i].value, wanted[i].length);
    if (!is_value(wanted[i].type) || !wanted[i].length) continue;
    REAL(GET_ATTRIBUTE_VALUE)(session, object, &of_class, 1UL);
    if (class == PRIVATE_KEY || class == SECRET_KEY) note(KEY_VALUE, &origin, sizeof origin);
  }
  return rv;
}

static U create_object(U session, U template, U count, U *handle) {
  return made(CREATE_OBJECT, REAL(CREATE_OBJECT)(session, template, count, handle), handle);
}

static U copy_object(U session, U object, U template, U count, U *handle) {
  return made(COPY_OBJECT, REAL(COPY_OBJECT)(session, object, template, count, handle), handle);
}

static U find_objects(U session, U *handles, U most, U *count) {
  U rv = REAL(FIND_OBJECTS)(session, handles, most, count);
  for (U i = 0; !rv && i < *count; i++) made(FIND_OBJECTS, rv, handles + i);
  return rv;
}

static U generate_key(U session, U mechanism, U template, U count, U *handle) {
  return made(GENERATE_KEY, REAL(GENERATE_KEY)(session, mechanism, template, count, handle), handle);
}

static U generate_key_pair(U a, U b, U c, U d, U e, U f, U *public, U *private) {
  return made(GENERATE_KEY_PAIR, REAL(GENERATE_KEY_PAIR)(a, b, c, d, e, f, public, private), private);
}

static U derive_key(U session, U mechanism, U base, U template, U count, U *handle) {
  return made(DERIVE_KEY, REAL(DERIVE_KEY)(session, mechanism, base, template, count, handle), handle);
}

static U wrap_key(U session, U mechanism, U wrapping, U key, B *o, U *m) {
  U rv = REAL(WRAP_KEY)(session, mechanism, wrapping, key, o, m);
  if (!rv && o && m) note(WRAP_KEY, o, *m);
  return rv;
}

/* Returns a handle only; noted so that the test sees that imports went through here. */
static U unwrap_key(U a, U b, U c, U d, U e, U f, U g, U *handle) {
  U rv = REAL(UNWRAP_KEY)(a, b, c, d, e, f, g, handle);
  note(UNWRAP_KEY, handle, rv ? 0 : sizeof *handle);
  return made(UNWRAP_KEY, rv, handle);
}

static U generate_random(U session, B *o, U n) {
  U rv = REAL(GENERATE_RANDOM)(session, o, n);
  if (!rv) note(GENERATE_RANDOM, o, n);
  return rv;
}

static U encapsulate_key(U a, U b, U c, U d, U e, B *o, U *m, U *handle) {
  U rv = ((U (*)())real_3_2->function[ENCAPSULATE_KEY])(a, b, c, d, e, o, m, handle);
  if (!rv && o && m) note(ENCAPSULATE_KEY, o, *m);
  return rv;
}

/* Returns a handle only. */
static U decapsulate_key(U a, U b, U c, U d, U e, U f, U g, U *handle) {
  U rv = ((U (*)())real_3_2->function[DECAPSULATE_KEY])(a, b, c, d, e, f, g, handle);
  note(DECAPSULATE_KEY, handle, rv ? 0 : sizeof *handle);
  return rv;
}

U C_GetFunctionList(struct list **list) {
  if (!real) {
    Dl_info self;
    char path[4096], name[4096] = "";
    if (!dladdr((void *)C_GetFunctionList, &self)) return 5;
    snprintf(path, sizeof path, "%s.real", self.dli_fname);
    int in = open(path, O_RDONLY | O_CLOEXEC);
    if (in < 0 || read(in, name, sizeof name - 1) <= 0) return 5;
    close(in);
    snprintf(path, sizeof path, "%s.out", self.dli_fname);
    out = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    module = dlopen(name, RTLD_NOW);
    U (*get)(struct list **) = module ? (U (*)(struct list **))dlsym(module, "C_GetFunctionList") : 0;
    if (out < 0 || !get || get(&real)) return 5;
    ours = *real;
    ours.function[GET_FUNCTION_LIST] = C_GetFunctionList;
    ours.function[GET_OPERATION_STATE] = get_operation_state;
    ours.function[CREATE_OBJECT] = create_object;
    ours.function[COPY_OBJECT] = copy_object;
    ours.function[GET_ATTRIBUTE_VALUE] = get_attribute_value;
    ours.function[FIND_OBJECTS] = find_objects;
    ours.function[ENCRYPT] = encrypt;
    ours.function[ENCRYPT_UPDATE] = encrypt_update;
    ours.function[ENCRYPT_FINAL] = encrypt_final;
    ours.function[DECRYPT] = decrypt;
    ours.function[DECRYPT_UPDATE] = decrypt_update;
    ours.function[DECRYPT_FINAL] = decrypt_final;
    ours.function[DIGEST] = digest;
    ours.function[DIGEST_FINAL] = digest_final;
    ours.function[SIGN] = sign;
    ours.function[SIGN_FINAL] = sign_final;
    ours.function[SIGN_RECOVER] = sign_recover;
    ours.function[VERIFY_RECOVER] = verify_recover;
    ours.function[DIGEST_ENCRYPT_UPDATE] = digest_encrypt_update;
    ours.function[DECRYPT_DIGEST_UPDATE] = decrypt_digest_update;
    ours.function[SIGN_ENCRYPT_UPDATE] = sign_encrypt_update;
    ours.function[DECRYPT_VERIFY_UPDATE] = decrypt_verify_update;
    ours.function[GENERATE_KEY] = generate_key;
    ours.function[GENERATE_KEY_PAIR] = generate_key_pair;
    ours.function[DERIVE_KEY] = derive_key;
    ours.function[WRAP_KEY] = wrap_key;
    ours.function[UNWRAP_KEY] = unwrap_key;
    ours.function[GENERATE_RANDOM] = generate_random;
  }
  *list = &ours;
  return 0;
}

/* The list of version 3.2: the watched functions of the older list, and encapsulation. */
U C_GetInterface(B *name, B *version, struct interface **found, U flags) {
  U (*get)() = real ? (U (*)())dlsym(module, "C_GetInterface") : 0;
  struct interface *given = 0;
  U rv = get ? get(name, version, &given, flags) : 0x54;
  if (rv || !given) return rv ? rv : 5;
  real_3_2 = given->list;
  if (real_3_2->version[0] != 3 || real_3_2->version[1] < 2) return 0x54;
  ours_3_2 = *real_3_2;
  for (int i = 0; i < FUNCTIONS; i++)
    if (ours.function[i] != real->function[i]) ours_3_2.function[i] = ours.function[i];
  ours_3_2.function[ENCAPSULATE_KEY] = encapsulate_key;
  ours_3_2.function[DECAPSULATE_KEY] = decapsulate_key;
  interface_3_2 = *given;
  interface_3_2.list = &ours_3_2;
  *found = &interface_3_2;
  return 0;
}
