/* Makes one call of a program on one directory fail, and writes down all of them.
 *
 * Loaded in front of the C library (LD_PRELOAD). These variables say what to do:
 *   VARVE_FAULT_DIRECTORY  calls on files below this path (or on itself) are counted
 *   VARVE_FAULT_LOG        each of them is a line there: call, name of the file, nanoseconds
 *   VARVE_FAULT_AT         "call name count errno": this one fails, once, without having been made;
 *                          its line begins with "FAILED"
 *   VARVE_FAULT_STALL      while this file is there, those calls wait
 *   VARVE_FAULT_SLOW       while this file is there, each of them takes half a second longer
 * What fails is not made at all, so what it was to make durable is not on the disk.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int met;

#define REAL(name) ((__typeof__(name) *)dlsym(RTLD_NEXT, #name))

/* 0: go on; otherwise the error number to fail with. */
static int strike(const char *call, const char *path) {
  const char *directory = getenv("VARVE_FAULT_DIRECTORY");
  const char *log = getenv("VARVE_FAULT_LOG");
  if (!directory || !log || !strstr(path, directory)) return 0;
  const char *slash = strrchr(path, '/');
  const char *name = slash ? slash + 1 : path;
  int error = 0;
  const char *stall = getenv("VARVE_FAULT_STALL");
  while (stall && !access(stall, F_OK)) usleep(2000);
  const char *slow = getenv("VARVE_FAULT_SLOW");
  if (slow && !access(slow, F_OK)) usleep(500000);
  pthread_mutex_lock(&lock);
  const char *at = getenv("VARVE_FAULT_AT");
  char want_call[32], want_name[128];
  int count, number;
  if (at && sscanf(at, "%31s %127s %d %d", want_call, want_name, &count, &number) == 4 &&
      !strcmp(call, want_call) && !strcmp(name, want_name) && ++met == count)
    error = number;
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  char line[512];
  int length = snprintf(line, sizeof line, "%s%s %s %lld\n", error ? "FAILED " : "", call, name,
                        (long long)now.tv_sec * 1000000000LL + now.tv_nsec);
  int file = REAL(open64)(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (file >= 0) {
    if (write(file, line, length) != length) abort();
    close(file);
  }
  pthread_mutex_unlock(&lock);
  return error;
}

static int strike_file(const char *call, int file) {
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length <= 0) return 0;
  path[length] = 0;
  return strike(call, path);
}

#define FAIL_AS(error, result)  \
  do {                          \
    int number = (error);       \
    if (number) {               \
      errno = number;           \
      return result;            \
    }                           \
  } while (0)

static int open_any(const char *path, int flags, mode_t mode) {
  if (flags & O_CREAT) FAIL_AS(strike("create", path), -1);
  return REAL(open64)(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  mode_t mode = va_arg(rest, mode_t);
  va_end(rest);
  return open_any(path, flags, mode);
}

int open(const char *path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  mode_t mode = va_arg(rest, mode_t);
  va_end(rest);
  return open_any(path, flags, mode);
}

int mkdir(const char *path, mode_t mode) {
  FAIL_AS(strike("mkdir", path), -1);
  return REAL(mkdir)(path, mode);
}

int rename(const char *from, const char *to) {
  FAIL_AS(strike("rename", from), -1);
  return REAL(rename)(from, to);
}

int unlink(const char *path) {
  FAIL_AS(strike("unlink", path), -1);
  return REAL(unlink)(path);
}

int fsync(int file) {
  FAIL_AS(strike_file("fsync", file), -1);
  return REAL(fsync)(file);
}

int fdatasync(int file) {
  FAIL_AS(strike_file("fdatasync", file), -1);
  return REAL(fdatasync)(file);
}

ssize_t pwrite64(int file, const void *data, size_t length, off64_t offset) {
  FAIL_AS(strike_file("pwrite", file), -1);
  return REAL(pwrite64)(file, data, length, offset);
}

ssize_t pwritev2(int file, const struct iovec *parts, int count, off_t offset, int flags) {
  FAIL_AS(strike_file("pwritev2", file), -1);
  return REAL(pwritev2)(file, parts, count, offset, flags);
}

ssize_t pwritev64v2(int file, const struct iovec *parts, int count, off64_t offset, int flags) {
  FAIL_AS(strike_file("pwritev2", file), -1);
  return REAL(pwritev64v2)(file, parts, count, offset, flags);
}

/* These two return the error. */
int posix_fallocate(int file, off_t offset, off_t length) {
  int error = strike_file("fallocate", file);
  return error ? error : REAL(posix_fallocate)(file, offset, length);
}

int posix_fallocate64(int file, off64_t offset, off64_t length) {
  int error = strike_file("fallocate", file);
  return error ? error : REAL(posix_fallocate64)(file, offset, length);
}
