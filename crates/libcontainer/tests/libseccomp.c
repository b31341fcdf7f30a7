/* The oracle of seccomp_oracle.rs: profiles line by line on standard input, libseccomp's programs in hex on standard output. */
#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <seccomp.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static void print_program(scmp_filter_ctx filter)
{
	unsigned char bytes[8 * 8192];
	int fd = memfd_create("bpf", 0);
	int failed = seccomp_export_bpf(filter, fd);
	ssize_t size = pread(fd, bytes, sizeof bytes, 0);

	close(fd);
	if (failed || size < 0)
		printf("error export %d", failed);
	for (ssize_t i = 0; !failed && i < size; i++)
		printf("%02x", bytes[i]);
	putchar('\n');
	fflush(stdout);
}

int main(void)
{
	scmp_filter_ctx filter = NULL;
	char line[4096], name[256];
	uint32_t action;

	while (fgets(line, sizeof line, stdin)) {
		if (sscanf(line, "new %" SCNu32, &action) == 1) {
			filter = seccomp_init(action);
			seccomp_arch_add(filter, SCMP_ARCH_X86);
			seccomp_arch_add(filter, SCMP_ARCH_X32);
			seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
		} else if (sscanf(line, "rule %" SCNu32 " %255s", &action, name) == 2) {
			struct scmp_arg_cmp compare[6];
			unsigned count = 0, index, operator;
			uint64_t value, second;
			char *word = strtok(line, ";");

			while ((word = strtok(NULL, ";")) &&
			       sscanf(word, "%u %u %" SCNu64 " %" SCNu64, &index, &operator, &value, &second) == 4)
				compare[count++] = (struct scmp_arg_cmp){ index, operator, value, second };
			int number = seccomp_syscall_resolve_name(name);
			int failed = number == __NR_SCMP_ERROR ? -ENOENT
				: seccomp_rule_add_array(filter, action, number, count, compare);
			if (failed && failed != -EEXIST)
				printf("error %s %d ", name, failed);
		} else {
			print_program(filter);
			seccomp_release(filter);
		}
	}
	return 0;
}
