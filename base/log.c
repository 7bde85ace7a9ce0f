/* SPDX-License-Identifier: MIT */
#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static enum log_level max_level = LOG_INFO;
static const char *line_context;
static _Thread_local char *captured; /* borrowed; NULL: errors are printed */
static _Thread_local size_t captured_size;

void log_set_level(enum log_level level)
{
	max_level = level;
}

void log_set_context(const char *context)
{
	line_context = context;
}

bool log_enabled(enum log_level level)
{
	return level <= max_level;
}

void log_capture(char *buffer, size_t size)
{
	captured = buffer;
	captured_size = size;
	if (buffer)
		buffer[0] = '\0';
}

static void print_line(char level, int r, const char *fmt, va_list args) printf_like(3, 0);

static void print_line(char level, int r, const char *fmt, va_list args)
{
	char line[1024];
	int saved_errno = errno;
	size_t n = 0;

	line[n++] = level;
	line[n++] = ' ';
	int wanted = 0;
	if (line_context)
		wanted = snprintf(line + n, sizeof(line) - n, "%.400s: ", line_context);
	n += wanted > 0 ? (size_t)wanted : 0;
	wanted = vsnprintf(line + n, sizeof(line) - n - 1, fmt, args);
	if (wanted > 0)
		n += (size_t)wanted < sizeof(line) - n - 1 ? (size_t)wanted
							   : sizeof(line) - n - 2;
	if (r < 0) {
		char reason[128];
		wanted = snprintf(line + n, sizeof(line) - n - 1, ": %s",
				  strerror_r(-r, reason, sizeof(reason)));
		if (wanted > 0)
			n += (size_t)wanted < sizeof(line) - n - 1 ? (size_t)wanted
								   : sizeof(line) - n - 2;
	}
	line[n] = '\0';
	if (level == 'E' && captured) {
		(void)snprintf(captured, captured_size, "%s", line + 2);
		errno = saved_errno;
		return;
	}
	line[n++] = '\n';
	if (write(STDERR_FILENO, line, n) < 0) {
		/* stderr is gone: there is nobody left to tell */
	}
	errno = saved_errno;
}

int log_err(int r, const char *fmt, ...)
{
	va_list args;
	va_start(args, fmt);
	print_line('E', r, fmt, args);
	va_end(args);
	return r;
}

void text_add(char *text, size_t size, const char *fmt, ...)
{
	size_t used = strlen(text);
	va_list args;

	va_start(args, fmt);
	(void)vsnprintf(text + used, size - used, fmt, args);
	va_end(args);
}

#define DEFINE_LOG(name, level, letter)           \
	void name(const char *fmt, ...)           \
	{                                         \
		if (!log_enabled(level))          \
			return;                   \
		va_list args;                     \
		va_start(args, fmt);              \
		print_line(letter, 0, fmt, args); \
		va_end(args);                     \
	}

DEFINE_LOG(log_warn, LOG_WARN, 'W')
DEFINE_LOG(log_info, LOG_INFO, 'I')
DEFINE_LOG(log_debug, LOG_DEBUG, 'D')

void log_guest(struct log_budget *budget, const char *fmt, ...)
{
	if (!log_enabled(LOG_WARN))
		return;
	if (__atomic_load_n(&budget->used, __ATOMIC_RELAXED) > LOG_GUEST_BURST)
		return;
	uint32_t used = __atomic_fetch_add(&budget->used, 1, __ATOMIC_RELAXED);
	if (used > LOG_GUEST_BURST)
		return;
	if (used == LOG_GUEST_BURST) {
		log_warn("guest: more of the same from this source, no longer reported");
		return;
	}
	va_list args;
	va_start(args, fmt);
	print_line('W', 0, fmt, args);
	va_end(args);
}
