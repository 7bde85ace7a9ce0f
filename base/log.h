/* SPDX-License-Identifier: MIT */
/*
 * log.h - one line on stderr per event: level, subsystem, verb, operands, reason.
 *
 * A failure is logged once, by the first function that knows what it was trying to do:
 *
 *	return log_err(r, "kvm: slot %u at 0x%" PRIx64, slot, gpa);
 *
 * prints "E kvm: slot 3 at 0x1000: Cannot allocate memory" and returns r. Those above pass
 * the value on in silence.
 *
 * Threads: any; a line is written by one write(2), so lines never mix.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/util.h"

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG, LOG_TRACE };

/* What is printed: everything up to `level`. LOG_INFO at start. Call before threads exist. */
void log_set_level(enum log_level level);
bool log_enabled(enum log_level level);
/*
 * What stands in front of each line from now on, "CONTEXT: ", for those whose words would not say
 * where their value comes from. Borrowed; NULL: nothing. Only while there is one thread.
 */
void log_set_context(const char *context);

/* Something asked for did not happen. `r` is -errno and is returned; 0: no reason is added. */
int log_err(int r, const char *fmt, ...) printf_like(2, 3);

/* Likewise, in words that say why: no reason is added. A macro: the compiler sees what is returned. */
#define log_refuse(r, ...) (log_err(0, __VA_ARGS__), (r))

/*
 * From now on this thread's errors are not printed but put into `buffer`, without their level: the
 * last one, or "". NULL: they are printed again. For who tells them in another way.
 */
void log_capture(char *buffer, size_t size);

/* Puts one more piece of a line behind `text`, or what there is room for in its `size` bytes. */
void text_add(char *text, size_t size, const char *fmt, ...) printf_like(3, 4);

/* It did happen, but worse; the text ends in what we do about it. */
void log_warn(const char *fmt, ...) printf_like(1, 2);
/* Life events: start, attach, balloon target, exit. */
void log_info(const char *fmt, ...) printf_like(1, 2);
/* On request. */
void log_debug(const char *fmt, ...) printf_like(1, 2);

/*
 * What a guest did wrong. A guest can do it a million times a second, so each source keeps
 * a budget: the first LOG_GUEST_BURST lines are printed, then one line says that no more
 * will be. Zeroed is a full budget.
 */
#define LOG_GUEST_BURST 16u
struct log_budget {
	uint32_t used; /* atomic */
};
void log_guest(struct log_budget *budget, const char *fmt, ...) printf_like(2, 3);

#endif /* BASE_LOG_H */
