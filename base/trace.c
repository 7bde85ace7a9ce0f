/* SPDX-License-Identifier: MIT */
#include "base/trace.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/fd.h"

bool trace_on;

static trace_listener *listener;
static struct trace_file *file; /* owned: a mapping; NULL: none */
static int file_fd = -1;        /* owned: it has the lock */

/* Of the tables, which are the process's: a file that is opened later has them as well. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const char *events[TRACE_MAX_EVENTS];
static char threads[TRACE_MAX_THREADS][TRACE_THREAD_SIZE] = { "main" };
static unsigned int nr_events;
static unsigned int nr_threads = 1;

static _Thread_local uint16_t this_thread;

void trace_listen(trace_listener *new_listener)
{
	listener = new_listener;
	trace_on = listener || file;
}

void trace_print(const char *event, uint64_t a, uint64_t b)
{
	char line[128];

	/* dprintf() would ask the kernel what stderr is, which the sandbox does not let it. */
	int n = snprintf(line, sizeof(line), "T %.64s 0x%" PRIx64 " 0x%" PRIx64 "\n", event, a,
			 b);
	if (write(STDERR_FILENO, line, (size_t)n) < 0) {
		/* stderr is gone: there is nobody left to tell */
	}
}

/* Under the lock, with a file. */
static void tell_event(unsigned int i)
{
	(void)snprintf(file->events[i], TRACE_EVENT_SIZE, "%s", events[i]);
	file->nr_events = nr_events;
}

static void tell_thread(unsigned int i)
{
	memcpy(file->threads[i], threads[i], TRACE_THREAD_SIZE);
	file->nr_threads = nr_threads;
}

static int map_file(int fd)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EEXIST;
	/* Of one that is in use it would take the memory away. */
	if (flock(fd, LOCK_EX | LOCK_NB) < 0)
		return errno == EWOULDBLOCK ? -EBUSY : -errno;
	if (ftruncate(fd, 0) < 0)
		return -errno;
	/* Or a full disk would end us in the middle of it. */
	int r = -posix_fallocate(fd, 0, sizeof(*file));
	if (r == 0) {
		void *p = mmap(NULL, sizeof(*file), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (p != MAP_FAILED) {
			file = p;
			return 0;
		}
		r = -errno;
	}
	return ftruncate(fd, 0) < 0 ? -errno : r;
}

static uint64_t now_ns(void)
{
	struct timespec now;

	(void)clock_gettime(CLOCK_MONOTONIC, &now); /* the arguments are good */
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

int trace_open(const char *path)
{
	file_fd = open(path, O_RDWR | O_CREAT | O_NONBLOCK | O_CLOEXEC, 0600);
	if (file_fd < 0)
		return -errno;
	int r = map_file(file_fd);
	if (r < 0) {
		fd_close(&file_fd);
		return r;
	}
	memcpy(file->magic, "BALLTRC", sizeof(file->magic));
	file->version = TRACE_VERSION;
	file->records_at = offsetof(struct trace_file, records);
	file->record_size = sizeof(struct trace_record);
	file->nr_records = TRACE_NR_RECORDS;
	file->began = now_ns();
	pthread_mutex_lock(&lock);
	for (unsigned int i = 0; i < nr_events; i++)
		tell_event(i);
	for (unsigned int i = 0; i < nr_threads; i++)
		tell_thread(i);
	pthread_mutex_unlock(&lock);
	trace_on = true;
	return 0;
}

void trace_close(void)
{
	if (file)
		(void)munmap(file, sizeof(*file));
	fd_close(&file_fd);
	file = NULL;
	trace_on = listener;
}

void trace_name_thread(const char *name)
{
	pthread_mutex_lock(&lock);
	if (nr_threads < TRACE_MAX_THREADS) {
		this_thread = (uint16_t)nr_threads++;
		(void)snprintf(threads[this_thread], TRACE_THREAD_SIZE, "%s", name);
		if (file)
			tell_thread(this_thread);
	}
	pthread_mutex_unlock(&lock);
}

/* Its place in the table, which it is given when it comes for the first time. 0: there is none left. */
static unsigned int number_of(struct trace_event *event)
{
	unsigned int number = __atomic_load_n(&event->number, __ATOMIC_ACQUIRE);

	if (number > 0)
		return number;
	pthread_mutex_lock(&lock);
	number = event->number;
	if (number == 0 && nr_events < TRACE_MAX_EVENTS) {
		events[nr_events++] = event->name;
		number = nr_events;
		tell_event(number - 1);
		__atomic_store_n(&event->number, (uint16_t)number, __ATOMIC_RELEASE);
	}
	pthread_mutex_unlock(&lock);
	return number;
}

void trace_begin(struct trace_span *span, struct trace_event *event, uint64_t a, uint64_t b)
{
	if (listener)
		listener(event->name, a, b);
	if (file)
		*span = (struct trace_span){
			.event = event, .begin = now_ns(), .a = a, .b = b
		};
}

void trace_record(const struct trace_span *span)
{
	if (!file)
		return;
	unsigned int event = number_of(span->event);
	if (event == 0)
		return;
	uint64_t n = __atomic_fetch_add(&file->next, 1, __ATOMIC_RELAXED);
	struct trace_record *record = &file->records[n % TRACE_NR_RECORDS];
	/* In this order, for who reads it after a kill. */
	__atomic_store_n(&record->number, 0, __ATOMIC_RELEASE);
	__atomic_store_n(&record->begin, span->begin, __ATOMIC_RELEASE);
	__atomic_store_n(&record->duration, now_ns() - span->begin, __ATOMIC_RELEASE);
	__atomic_store_n(&record->a, span->a, __ATOMIC_RELEASE);
	__atomic_store_n(&record->b, span->b, __ATOMIC_RELEASE);
	__atomic_store_n(&record->event, (uint16_t)(event - 1), __ATOMIC_RELEASE);
	__atomic_store_n(&record->thread, this_thread, __ATOMIC_RELEASE);
	__atomic_store_n(&record->number, n + 1, __ATOMIC_RELEASE);
}
