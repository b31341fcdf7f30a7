/*
 * A container's whole life from C: makes a bundle of a static busybox in a directory of its own, then create, state,
 * start, exec, signal, wait and delete, checking each answer, and what happens when something is wrong.
 *
 *     life DIRECTORY [BUSYBOX]        DIRECTORY must not be there yet; it is left with the bundle in it
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "libcontainer.h"

static libcontainer *containers;
static char id[64];

static void check(int holds, const char *what)
{
	printf("%s %s\n", holds ? "ok  " : "FAIL", what);
	fflush(stdout);
	if (holds)
		return;
	printf("     the library says: %s\n", libcontainer_error());
	/* Nothing is left behind, whatever went wrong. */
	libcontainer_delete(containers, id, 1);
	libcontainer_close(containers);
	exit(1);
}

/* A call that must fail in this way, and say so. */
static void refused(int got, int kind, const char *part)
{
	char *what;

	if (asprintf(&what, "refused: %s", libcontainer_error()) < 0)
		abort();
	check(got == kind && strstr(libcontainer_error(), part), what);
	free(what);
}

static char *join(const char *directory, const char *name)
{
	char *path;

	if (asprintf(&path, "%s/%s", directory, name) < 0)
		abort();
	return path;
}

static void write_file(const char *directory, const char *name, const char *text)
{
	char *path = join(directory, name);
	FILE *file = fopen(path, "w");

	check(file && fputs(text, file) >= 0 && fclose(file) == 0, path);
	free(path);
}

static void copy_program(const char *from, const char *to)
{
	int in = open(from, O_RDONLY | O_CLOEXEC), out = open(to, O_WRONLY | O_CREAT | O_CLOEXEC, 0755);
	ssize_t copied = 1;

	while (in >= 0 && out >= 0 && copied > 0)
		copied = sendfile(out, in, NULL, 1 << 24);
	check(in >= 0 && out >= 0 && copied == 0, from);
	close(in);
	close(out);
}

static const char config[] =
	"{ \"ociVersion\": \"1.3.0\","
	"  \"process\": { \"cwd\": \"/\", \"user\": { \"uid\": 0, \"gid\": 0 },"
	"    \"args\": [\"/bin/sh\", \"-c\", \"trap 'exit 7' TERM; echo ready; while true; do sleep 1; done\"],"
	"    \"env\": [\"PATH=/bin\"] },"
	"  \"root\": { \"path\": \"rootfs\" },"
	"  \"annotations\": { \"made\": \"in C\" },"
	"  \"mounts\": [{ \"destination\": \"/proc\", \"type\": \"proc\", \"source\": \"proc\" }],"
	"  \"linux\": { \"namespaces\": [{ \"type\": \"pid\" }, { \"type\": \"mount\" }, { \"type\": \"ipc\" },"
	"    { \"type\": \"uts\" }, { \"type\": \"network\" }] } }";

static void make_bundle(const char *directory, const char *busybox)
{
	static const char *const names[] = { "rootfs", "rootfs/bin", "rootfs/proc", "rootfs/dev" };
	static const char *const applets[] = { "sh", "sleep", "cat", "true" };
	char *path;

	check(mkdir(directory, 0755) == 0, directory);
	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		path = join(directory, names[i]);
		check(mkdir(path, 0755) == 0, path);
		free(path);
	}
	path = join(directory, "rootfs/bin/busybox");
	copy_program(busybox, path);
	free(path);
	for (size_t i = 0; i < sizeof applets / sizeof *applets; i++) {
		char *bin = join(directory, "rootfs/bin");

		path = join(bin, applets[i]);
		check(symlink("busybox", path) == 0, path);
		free(path);
		free(bin);
	}
	write_file(directory, "config.json", config);
}

static int status(void)
{
	int status = -1;

	check(libcontainer_state(containers, id, &status, NULL) == LIBCONTAINER_OK, "state");
	return status;
}

/* Reads what is there until `text` has come. */
static void expect(int fd, const char *text)
{
	char said[4096] = "";
	size_t length = 0;
	ssize_t got;

	while (!strstr(said, text) && length < sizeof said - 1 &&
	       (got = read(fd, said + length, sizeof said - 1 - length)) > 0)
		said[length += (size_t)got] = 0;
	check(strstr(said, text) != NULL, text);
}

/* A thread that waits does not keep others from working with the same handle. */
static void *wait_in_thread(void *code)
{
	return libcontainer_wait(containers, id, 0, 60000, code) == LIBCONTAINER_OK ? code : NULL;
}

static void errors(const char *bundle, const char *directory)
{
	struct libcontainer_options options = LIBCONTAINER_OPTIONS_INIT;
	char *empty = join(directory, "empty"), *missing = join(empty, "config.json"), *json = NULL;
	libcontainer *none = NULL;

	check(mkdir(empty, 0755) == 0, empty);
	refused(libcontainer_create(containers, id, empty, NULL), LIBCONTAINER_SYSTEM, missing);
	refused(libcontainer_state(containers, id, NULL, &json), LIBCONTAINER_NOT_FOUND, "does not exist");
	check(!json, "nothing was left, and nothing written");
	refused(libcontainer_create(containers, "../x", bundle, NULL), LIBCONTAINER_INVALID, "../x");
	refused(libcontainer_open(NULL, &none), LIBCONTAINER_INVALID, "root is NULL");
	refused(libcontainer_open(directory, NULL), LIBCONTAINER_INVALID, "opened is NULL");
	refused(libcontainer_start(NULL, id), LIBCONTAINER_INVALID, "containers is NULL");
	refused(libcontainer_start(containers, NULL), LIBCONTAINER_INVALID, "id is NULL");
	refused(libcontainer_start(containers, "\xff"), LIBCONTAINER_INVALID, "UTF-8");
	options.size = 3;
	refused(libcontainer_create(containers, id, bundle, &options), LIBCONTAINER_INVALID, "options.size is 3");
	options.size = sizeof options;
	options.flags = LIBCONTAINER_IGNORE_PAUSED;
	refused(libcontainer_create(containers, id, bundle, &options), LIBCONTAINER_INVALID, "options.flags");
	options.flags = 0;
	options.stdout_fd = 999;
	refused(libcontainer_create(containers, id, bundle, &options), LIBCONTAINER_SYSTEM, "999");
	libcontainer_close(NULL);
	libcontainer_free(NULL);
	free(missing);
	free(empty);
}

static void life(const char *bundle)
{
	struct libcontainer_options options = LIBCONTAINER_OPTIONS_INIT;
	int out[2], code = -2, descriptors = open("/", O_PATH);
	char *json = NULL;
	pid_t pid = 0;
	pthread_t waiter;
	void *waited;

	check(pipe2(out, O_CLOEXEC) == 0, "a pipe");
	options.stdout_fd = out[1];
	check(libcontainer_create(containers, id, bundle, &options) == LIBCONTAINER_OK, "create");
	refused(libcontainer_create(containers, id, bundle, NULL), LIBCONTAINER_CONFLICT, "already exists");
	check(libcontainer_state(containers, id, NULL, &json) == LIBCONTAINER_OK, "state as JSON");
	check(strstr(json, "\"status\":\"created\"") && strstr(json, "\"made\":\"in C\""), json);
	libcontainer_free(json);
	check(status() == LIBCONTAINER_CREATED, "it is created");
	refused(libcontainer_wait(containers, id, 0, 0, &code), LIBCONTAINER_TIMEOUT, id);

	check(libcontainer_start(containers, id) == LIBCONTAINER_OK, "start");
	expect(out[0], "ready");
	check(status() == LIBCONTAINER_RUNNING, "it is running");
	refused(libcontainer_start(containers, id), LIBCONTAINER_CONFLICT, "already running");
	refused(libcontainer_delete(containers, id, 0), LIBCONTAINER_CONFLICT, "not stopped");

	check(libcontainer_exec(containers, id,
		"{\"cwd\": \"/\", \"env\": [\"PATH=/bin\"], \"args\": [\"sh\", \"-c\", \"cat /proc/1/comm; exit 42\"]}",
		&options, &pid) == LIBCONTAINER_OK && pid > 0, "exec");
	expect(out[0], "sh");
	check(libcontainer_wait(containers, id, pid, -1, &code) == LIBCONTAINER_OK && code == 42, "its exit code is 42");
	refused(libcontainer_wait(containers, id, pid, -1, &code), LIBCONTAINER_INVALID, "this handle did not start");
	refused(libcontainer_exec(containers, id, "{\"cwd\": \"/\", \"args\": [\"nowhere\"]}", NULL, NULL),
		LIBCONTAINER_COMMAND_NOT_FOUND, "nowhere");
	refused(libcontainer_exec(containers, id, "{", NULL, NULL), LIBCONTAINER_INVALID, "not understood");

	check(pthread_create(&waiter, NULL, wait_in_thread, &code) == 0, "a thread that waits");
	check(libcontainer_signal(containers, id, SIGTERM, 0) == LIBCONTAINER_OK, "signal");
	check(pthread_join(waiter, &waited) == 0 && waited && code == 7, "the program ended with 7, as it does on SIGTERM");
	check(libcontainer_wait(containers, id, 0, -1, &code) == LIBCONTAINER_OK && code == 7, "and that is told again");
	check(status() == LIBCONTAINER_STOPPED, "it has stopped");
	refused(libcontainer_signal(containers, id, SIGTERM, 0), LIBCONTAINER_CONFLICT, "not running");
	check(libcontainer_delete(containers, id, 0) == LIBCONTAINER_OK, "delete");
	refused(libcontainer_delete(containers, id, 0), LIBCONTAINER_NOT_FOUND, "does not exist");

	check(libcontainer_create(containers, id, bundle, NULL) == LIBCONTAINER_OK, "the name is free again");
	check(libcontainer_start(containers, id) == LIBCONTAINER_OK, "and runs");
	check(libcontainer_delete(containers, id, 1) == LIBCONTAINER_OK, "delete by force");
	close(out[0]);
	close(out[1]);
	close(descriptors);
	check(open("/", O_PATH) == descriptors, "the library left no descriptor open");
	close(descriptors);
	check(waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD, "and no child");
}

int main(int count, char **arguments)
{
	char *bundle, *state;

	if (count < 2) {
		fprintf(stderr, "usage: life DIRECTORY [BUSYBOX]\n");
		return 2;
	}
	printf("libcontainer %s\n", libcontainer_version());
	snprintf(id, sizeof id, "from-c-%d", getpid());
	check(mkdir(arguments[1], 0755) == 0, arguments[1]);
	bundle = join(arguments[1], "bundle");
	state = join(arguments[1], "state");
	make_bundle(bundle, count > 2 ? arguments[2] : "/bin/busybox");
	check(libcontainer_open(state, &containers) == LIBCONTAINER_OK, "open");
	check(*libcontainer_error() == 0, "no error");
	errors(bundle, arguments[1]);
	life(bundle);
	libcontainer_close(containers);
	free(bundle);
	free(state);
	printf("all is well\n");
	return 0;
}
