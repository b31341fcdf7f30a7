/*
 * libcontainer: containers from OCI bundles, for C and whatever can call C. Linux; root, or a user who may make user
 * namespaces.
 *
 *     libcontainer *containers;
 *     int code;
 *     if (libcontainer_open("/run/mine", &containers) ||
 *         libcontainer_create(containers, "web", "/srv/bundle", NULL) ||
 *         libcontainer_start(containers, "web") ||
 *         libcontainer_wait(containers, "web", 0, -1, &code) ||
 *         libcontainer_delete(containers, "web", 0))
 *             fprintf(stderr, "%s\n", libcontainer_error());
 *     libcontainer_close(containers);
 *
 * Every function that returns int returns LIBCONTAINER_OK (0) or one of the negative kinds below; libcontainer_error()
 * then says what was attempted, on what, and why it failed. Strings are UTF-8 and are copied. Relative paths start at
 * the working directory of the call. No function changes the caller's descriptors, signals or working directory, and
 * none ends the caller's process.
 *
 * Threads: all functions may be called from several threads, with the same handle too, except that nobody may use a
 * handle while or after it is closed. What makes or removes processes (create, start, exec, delete) is done one after
 * the other on one handle; state, signal and wait do not wait for each other.
 *
 * Processes: each handle has a process of its own, the keeper (`ps` shows libcontainer-keeper and the directory). It is
 * the parent of what is made through the handle, so exit codes are known to that handle alone. It is no child of the
 * caller and ends when the handle is closed or the caller ends; the containers go on, and any other handle on the same
 * directory, or `gantry runtime --root`, can use them.
 *
 * Link: cc program.c libcontainer.a -lpthread -ldl -lm -lgcc_s -lutil -lrt    (or -static with -lgcc_eh for -lgcc_s)
 *       cc program.c -lcontainer
 */
#ifndef LIBCONTAINER_H
#define LIBCONTAINER_H

#include <stddef.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A directory of containers, and the process that keeps them. */
typedef struct libcontainer libcontainer;

/* What went wrong. */
enum libcontainer_kind {
	LIBCONTAINER_OK = 0,
	LIBCONTAINER_INVALID = -1,           /* an argument, or the configuration, asks for what cannot be */
	LIBCONTAINER_NOT_FOUND = -2,         /* there is no such container */
	LIBCONTAINER_CONFLICT = -3,          /* it is not in the state that this needs, or its name is taken */
	LIBCONTAINER_COMMAND_NOT_FOUND = -4, /* the program is not in the container (a shell's 127) */
	LIBCONTAINER_NOT_EXECUTABLE = -5,    /* the program cannot be executed (a shell's 126) */
	LIBCONTAINER_SYSTEM = -6,            /* the kernel refused */
	LIBCONTAINER_TIMEOUT = -7,           /* the time given to wait is over */
	LIBCONTAINER_INTERNAL = -8           /* the keeper was killed, or a defect of this library */
};

/* Where a container is in its life. */
enum libcontainer_status {
	LIBCONTAINER_CREATING = 0,
	LIBCONTAINER_CREATED = 1,
	LIBCONTAINER_RUNNING = 2,
	LIBCONTAINER_PAUSED = 3,
	LIBCONTAINER_STOPPED = 4
};

/* Of libcontainer_options.flags. */
enum libcontainer_flags {
	LIBCONTAINER_NO_PIVOT = 1,       /* create: move the root instead of pivoting to it (a root in an initial RAM disk) */
	LIBCONTAINER_NO_NEW_KEYRING = 2, /* create: keep the caller's session keyring */
	LIBCONTAINER_IGNORE_PAUSED = 4   /* exec: in a paused container too; it runs when that is resumed */
};

/* libcontainer_wait: the process ended, and only the handle that made it knows how. */
#define LIBCONTAINER_EXIT_UNKNOWN (-1)

/* How a process is started. Begin with LIBCONTAINER_OPTIONS_INIT, and change what is wanted. */
struct libcontainer_options {
	size_t size;                /* of this structure: the library refuses another one */
	int stdin_fd;               /* the program's standard streams; -1: the caller's own 0, 1, 2. Duplicated, and */
	int stdout_fd;              /* still the caller's to close. Of no use with a terminal. */
	int stderr_fd;
	unsigned flags;             /* enum libcontainer_flags */
	const char *console_socket; /* with process.terminal: a unix socket that receives the terminal's master end by
	                               SCM_RIGHTS; else NULL */
	const char *pid_file;       /* receives the process id in decimal; or NULL */
};
#define LIBCONTAINER_OPTIONS_INIT { sizeof(struct libcontainer_options), -1, -1, -1, 0, NULL, NULL }

/* The library's version. */
const char *libcontainer_version(void);

/* Why the last call of this thread failed; "" when it did not. Valid until this thread's next call. Never NULL. */
const char *libcontainer_error(void);

/* What the last call of this thread, which succeeded, left out or could not do: lines; "" for none. As above. */
const char *libcontainer_warnings(void);

/* Opens the directory `root`, which is made when the first container is; *opened is to be closed by the caller. */
int libcontainer_open(const char *root, libcontainer **opened);

/* Closes it; NULL is fine. Containers go on. */
void libcontainer_close(libcontainer *containers);

/* Makes a container from `bundle`/config.json: everything but the start of its program. On failure nothing is left.
 * `options` may be NULL. */
int libcontainer_create(const libcontainer *containers, const char *id, const char *bundle,
                        const struct libcontainer_options *options);

/* Starts the program of a created container; returns when it runs. */
int libcontainer_start(const libcontainer *containers, const char *id);

/* Starts a further process, described as config.json describes `process`; returns when its program runs. *pid is its id
 * on the host, for libcontainer_wait. `options` and `pid` may be NULL. */
int libcontainer_exec(const libcontainer *containers, const char *id, const char *process,
                      const struct libcontainer_options *options, pid_t *pid);

/* Sends a signal to the first process, with `all` to every process. */
int libcontainer_signal(const libcontainer *containers, const char *id, int signal, int all);

/* Tells the state: *status (enum libcontainer_status), and *json as `state` of the OCI runtime specification, to be freed
 * with libcontainer_free(). Either may be NULL. */
int libcontainer_state(const libcontainer *containers, const char *id, int *status, char **json);

/* Waits until the first process (pid 0), or one of libcontainer_exec()'s, has ended: at most `milliseconds`, or with -1
 * as long as it takes. *code is 0 to 255, 128 + n for signal n, or LIBCONTAINER_EXIT_UNKNOWN; `code` may be NULL. The
 * container's is told as often as it is asked for, until it is deleted; an exec's, once to all who wait. */
int libcontainer_wait(const libcontainer *containers, const char *id, pid_t pid, int milliseconds, int *code);

/* Removes a container that has stopped or was never started; with `force` any, killing its processes. */
int libcontainer_delete(const libcontainer *containers, const char *id, int force);

/* Frees what libcontainer_state() gave; NULL is fine. */
void libcontainer_free(char *text);

#ifdef __cplusplus
}
#endif

#endif
