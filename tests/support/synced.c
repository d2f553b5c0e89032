/* Preloaded under a process: keeps a copy of what a power loss would leave of a folder.

   FOLDER is watched. At each sync of a file in it, the file's content goes into IMAGE under the
   number of its inode; at each sync of a directory, the names in it and their inodes go there.
   Nothing that was not synced is in IMAGE: the harshest disk there can be. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void put(const char *name, int from) {
  char part[4200], whole[4200], buffer[1 << 16];
  const char *image = getenv("IMAGE");
  snprintf(part, sizeof part, "%s/.part", image);
  snprintf(whole, sizeof whole, "%s/%s", image, name);
  int to = open(part, O_WRONLY | O_CREAT | O_TRUNC, 0644);
  if (to < 0) return;
  off_t at = 0;
  ssize_t n;
  while ((n = pread(from, buffer, sizeof buffer, at)) > 0) {
    if (write(to, buffer, n) != n) break;
    at += n;
  }
  close(to);
  rename(part, whole);
}

static void note(int fd) {
  const char *folder = getenv("FOLDER"), *image = getenv("IMAGE");
  char link[64], path[4096], name[4200];
  struct stat found;
  if (!folder || !image || fstat(fd, &found)) return;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(link, path, sizeof path - 1);
  if (n < 0) return;
  path[n] = 0;
  if (strncmp(path, folder, strlen(folder))) return;
  pthread_mutex_lock(&lock);
  if (S_ISREG(found.st_mode)) {
    snprintf(name, sizeof name, "i%lu", (unsigned long)found.st_ino);
    char again[64];
    snprintf(again, sizeof again, "/proc/self/fd/%d", fd);
    int from = open(again, O_RDONLY);
    if (from >= 0) { put(name, from); close(from); }
  } else if (S_ISDIR(found.st_mode)) {
    snprintf(name, sizeof name, "%s/.listing", image);
    FILE *list = fopen(name, "w");
    DIR *dir = opendir(path);
    struct dirent *entry;
    while (list && dir && (entry = readdir(dir)))
      if (entry->d_name[0] != '.')
        fprintf(list, "%lu %s\n", (unsigned long)entry->d_ino, entry->d_name);
    if (dir) closedir(dir);
    if (list) fclose(list);
    char whole[4400];
    snprintf(whole, sizeof whole, "%s/d%lu", image, (unsigned long)found.st_ino);
    rename(name, whole);
  }
  pthread_mutex_unlock(&lock);
}

int fsync(int fd) {
  static int (*real)(int);
  if (!real) real = dlsym(RTLD_NEXT, "fsync");
  int code = real(fd);
  if (!code) note(fd);
  return code;
}

int fdatasync(int fd) {
  static int (*real)(int);
  if (!real) real = dlsym(RTLD_NEXT, "fdatasync");
  int code = real(fd);
  if (!code) note(fd);
  return code;
}
