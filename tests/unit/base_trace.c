/* SPDX-License-Identifier: MIT */
#include "base/trace.h"

#include "tests/fakes/process.h"

static const char *last_event;
static uint64_t last_a;
static uint64_t last_b;
static unsigned int nr_events;

static void remember(const char *event, uint64_t a, uint64_t b)
{
	last_event = event;
	last_a = a;
	last_b = b;
	nr_events++;
}

static unsigned int nr_evaluated;

static uint64_t operand(void)
{
	return ++nr_evaluated;
}

START_TEST(a_listener_hears_name_and_operands)
{
	trace_listen(remember);
	TRACE(memory_map_add, 0x1000, -1);
	ck_assert_uint_eq(nr_events, 1);
	ck_assert_str_eq(last_event, "memory_map_add");
	ck_assert_uint_eq(last_a, 0x1000);
	ck_assert_uint_eq(last_b, UINT64_MAX);
}
END_TEST

START_TEST(operands_cost_nothing_when_nobody_listens)
{
	TRACE(silent, operand(), operand());
	ck_assert_uint_eq(nr_evaluated, 0);
	trace_listen(remember);
	TRACE(heard, operand(), 0);
	ck_assert_uint_eq(nr_evaluated, 1);
	trace_listen(NULL);
	TRACE(silent, operand(), 0);
	ck_assert_uint_eq(nr_evaluated, 1);
	ck_assert_uint_eq(nr_events, 1);
}
END_TEST

START_TEST(printing_is_one_line)
{
	trace_listen(trace_print);
	TRACE(io_bus_read, 0x3f8, 1);
	ck_assert_str_eq(process_log(), "T io_bus_read 0x3f8 0x1\n");
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		a_listener_hears_name_and_operands,
		operands_cost_nothing_when_nobody_listens,
		printing_is_one_line,
	};
	return run_tests("base_trace", process_keep_log, NULL, tests, nitems(tests));
}
