/* SPDX-License-Identifier: MIT */
/*
 * balloon.c - a hostile balloon driver, as libFuzzer plays it: what it does, step by step, is
 * the input. After each step the books must be right; at the end all memory is the guest's.
 *
 * An input is a byte of the world's properties, then steps.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/trace.h"

#include "devices/virtio_balloon.h"
#include "memory/reclaim.h"
#include "tests/fuzz/driver.h"

#define PAGE 4096u
#define HUGE_PAGE (2ull << 20)
#define GRANULE (64ull << 10) /* where there is a device; huge pages are larger */
#define NR_PAGES (2 * FUZZ_SIZE / PAGE)

#define POOL_PFN ((uint32_t)(HUGE_PAGE / PAGE))
#define HIGH_PFN ((uint32_t)(FUZZ_HIGH_GPA / PAGE))

enum {
	WORLD_GRANULES = 1, /* RAM in pieces of 2 MiB, as hugetlb is */
	WORLD_UNSAFE = 2,
	WORLD_REPORTING = 4,
	WORLD_MEMFD = 8,
	WORLD_ASKS = 16,
	WORLD_PINNER = 32, /* a device is assigned that goes along */
};

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);
int __real_ram_populate(struct ram *ram, uint64_t offset, uint64_t size);
int __wrap_ram_populate(struct ram *ram, uint64_t offset, uint64_t size);

/* Exists only while an input runs. */
static struct {
	struct ram *ram; /* that below, or fuzz_ram() */
	struct reclaim reclaim;
	struct inhibitor inhibitors[2];
	bool raised[2];
	struct virtio_balloon balloon;
	bool unsafe;
	bool host_is_full;     /* populating fails */
	bool reporting;        /* what was traced last is a report */
	bool may_go[NR_PAGES]; /* the balloon holds it, or a report names it */
	bool reported[NR_PAGES];
	struct pinner pinner;
	bool pinned[NR_PAGES];
} world;

/* Made once, since that takes longer than most inputs; emptied after each. */
static struct ram memfd;

/* The kernel */

int __wrap_ram_populate(struct ram *ram, uint64_t offset, uint64_t size)
{
	return world.host_is_full ? -ENOMEM : __real_ram_populate(ram, offset, size);
}

/* Where guest address `gpa` stands in the block; < 0: nowhere. */
static int64_t page_at(gpa_t gpa)
{
	if (gpa < FUZZ_SIZE)
		return (int64_t)(gpa / PAGE);
	if (gpa >= FUZZ_HIGH_GPA && gpa < FUZZ_HIGH_GPA + FUZZ_SIZE)
		return (int64_t)((gpa - FUZZ_HIGH_GPA + FUZZ_SIZE) / PAGE);
	return -1;
}

static void mark(bool *pages, gpa_t gpa, uint64_t size)
{
	uint64_t first = gpa / PAGE;

	for (uint64_t i = 0; i < size / PAGE; i++) {
		int64_t page = page_at((first + i) * PAGE);
		if (page >= 0)
			pages[page] = true;
	}
}

static void unmark(bool *pages, gpa_t gpa, uint64_t size)
{
	uint64_t first = gpa / PAGE;

	for (uint64_t i = 0; i < size / PAGE; i++) {
		int64_t page = page_at((first + i) * PAGE);
		if (page >= 0)
			pages[page] = false;
	}
}

/* The device: what the guest may use it must have pinned. */

static int device_discard(struct pinner *pinner, const struct memory_region *region, gpa_t gpa,
			  uint64_t size)
{
	(void)pinner;
	(void)region;
	unmark(world.pinned, gpa, size);
	return 0;
}

static int device_populate(struct pinner *pinner, const struct memory_region *region, gpa_t gpa,
			   uint64_t size)
{
	(void)pinner;
	(void)region;
	if (world.host_is_full)
		return -ENOMEM;
	mark(world.pinned, gpa, size);
	return 0;
}

static const struct pinner_ops device_ops = {
	.discard = device_discard,
	.populate = device_populate,
};

static void check_pinned(void)
{
	for (unsigned int page = 0; page < NR_PAGES && world.pinner.ops; page++)
		assert(world.pinned[page] || world.may_go[page]);
}

/* Nothing goes that nobody gave up, and nothing at all under a pin. */
static void check_discard(uint64_t offset, uint64_t size)
{
	const bool *pages = world.reporting ? world.reported : world.may_go;

	assert(offset + size <= 2 * FUZZ_SIZE && size > 0);
	if (world.raised[0] || world.raised[1])
		assert(world.unsafe && !world.reporting);
	for (uint64_t page = offset / PAGE; page < (offset + size) / PAGE; page++)
		assert(pages[page] && !world.pinned[page]);
}

static void watch(const char *event, uint64_t a, uint64_t b)
{
	if (strcmp(event, "ram_discard") == 0) {
		check_discard(a, b);
		return;
	}
	if (strncmp(event, "reclaim", 7) == 0 || strncmp(event, "inhibitor", 9) == 0)
		world.reporting = strcmp(event, "reclaim_report") == 0;
	if (world.reporting) {
		memset(world.reported, 0, sizeof(world.reported));
		mark(world.reported, a, b + PAGE);
	} else if (strcmp(event, "reclaim_take") == 0) {
		mark(world.may_go, a, b);
	} else if (strcmp(event, "reclaim_give_back") == 0 && !world.host_is_full) {
		unmark(world.may_go, a, b); /* of a full host nobody knows if it works */
	} else if (strcmp(event, "reclaim_give_back_all") == 0 && !world.host_is_full) {
		memset(world.may_go, 0, sizeof(world.may_go));
	}
}

/* The input */

static uint32_t next_pfn(void)
{
	switch (next8() % 4) {
	case 0: return POOL_PFN + next16() % (POOL_PFN + 2);
	case 1: return HIGH_PFN + next16() % (2 * POOL_PFN + 2);
	case 2: return next16();
	default: return next32();
	}
}

/* Steps */

/* A run of page numbers, ascending, descending or the same one again. */
static unsigned int put_pfns(gpa_t gpa)
{
	uint32_t pfns[1024];
	uint32_t pfn = next_pfn();
	uint32_t stride = (uint32_t)(int8_t)next8();
	unsigned int n = next16() % (nitems(pfns) + 1);

	for (unsigned int i = 0; i < n; i++)
		pfns[i] = pfn + i * stride;
	put(gpa, pfns, n * sizeof(*pfns));
	return n;
}

/* What a driver that behaves would send: it takes the fuzzer deep. */
static void step_element(void)
{
	unsigned int queue = next_queue();
	struct vring_desc desc = { .addr = FUZZ_BUFFER };

	desc.len = put_pfns(FUZZ_BUFFER) * 4;
	if (queue == 3) {
		desc.addr = next_gpa();
		desc.len = next8() * PAGE * 16;
		desc.flags = VRING_DESC_F_WRITE;
	}
	put_desc(queue, 0, desc);
	publish(queue, 0);
	virtio_kick(&world.balloon.virtio, queue);
}

static void step_inhibit(void)
{
	unsigned int i = next8() % 2;

	if (world.raised[i]) {
		world.raised[i] = false;
		inhibitor_lower(&world.reclaim, &world.inhibitors[i]);
	} else {
		inhibitor_raise(&world.reclaim, &world.inhibitors[i], "fuzz");
		world.raised[i] = true;
	}
}

static void step_host(void)
{
	struct virtio_balloon *b = &world.balloon;
	struct virtio_balloon_stats stats;

	switch (next8() % 6) {
	case 0: world.host_is_full = !world.host_is_full; break;
	case 1: b->timer.ready(&b->timer, EPOLLIN); break;
	case 2: b->retry_timer.ready(&b->retry_timer, EPOLLIN); break;
	case 3: virtio_balloon_set_stats_period(b, next8()); break;
	case 4: b->rest_timer.ready(&b->rest_timer, EPOLLIN); break;
	default:
		virtio_balloon_get_stats(b, &stats);
		if (virtio_balloon_request_stats(b) < 0 ||
		    virtio_balloon_set_target(b, next64()) < 0)
			return;
	}
}

static void check_all_given_back(void)
{
	struct reclaim_figures f;

	reclaim_figures(&world.reclaim, &f);
	assert(f.held == 0 && f.reclaimed == 0);
}

static void step_reset(void)
{
	struct virtio_balloon *b = &world.balloon;
	struct virtio_balloon_state s;

	virtio_reset(&b->virtio);
	virtio_balloon_get_state(b, &s);
	assert(s.actual == 0 && !s.running && s.nr_waiting == 0);
	/* It is through once there is memory, in as many steps as it takes. */
	for (; s.resetting; virtio_balloon_get_state(b, &s)) {
		world.host_is_full = false;
		b->retry_timer.ready(&b->retry_timer, EPOLLIN);
	}
	assert(world.balloon.virtio.status == 0);
	check_all_given_back();
}

static void check_books(void)
{
	struct virtio_balloon_state s;
	struct reclaim_figures f;

	reclaim_figures(&world.reclaim, &f);
	assert(f.held <= 2 * FUZZ_SIZE);
	assert(f.reclaimed <= f.held);
	assert(f.held_back == f.held - f.reclaimed);
	assert(f.incomplete <= f.held_back);
	assert(f.nr_inhibitors == (unsigned int)world.raised[0] + world.raised[1]);
	if (f.nr_inhibitors && f.nr_pinners == 0)
		assert(f.reclaimed == 0);
	check_pinned();
	virtio_balloon_get_state(&world.balloon, &s);
	assert(s.actual <= 2 * FUZZ_SIZE && s.nr_waiting <= 1);
	/* A write of 0 to the status, too, is a reset. */
	if (world.balloon.virtio.status == 0)
		assert(f.held == 0);
}

/* The world */

static int make_map(uint8_t properties, const uint8_t *bytes, size_t size)
{
	bool granules = properties & WORLD_GRANULES;

	world.ram = granules || properties & WORLD_MEMFD ? &memfd : fuzz_ram();
	world.ram->page_size = granules ? HUGE_PAGE : PAGE;
	return fuzz_begin(world.ram, bytes, size);
}

static int add_device(void)
{
	world.pinner.ops = &device_ops;
	pinner_join(&world.reclaim, &world.pinner);
	int r = pinner_pin(&world.reclaim, &world.pinner, &fuzz.low);
	return r < 0 ? r : pinner_pin(&world.reclaim, &world.pinner, &fuzz.high);
}

static int make_world(uint8_t properties, const uint8_t *bytes, size_t size)
{
	const struct virtio_balloon_config config = {
		.reporting = properties & WORLD_REPORTING && !(properties & WORLD_GRANULES),
		.deflate_on_oom = properties & WORLD_REPORTING,
		.stats_period = properties & WORLD_ASKS ? 1 : 0,
	};

	world.unsafe = properties & WORLD_UNSAFE;
	int r = make_map(properties, bytes, size);
	if (r < 0)
		return r;
	r = reclaim_init(&world.reclaim, &fuzz.map,
			 world.unsafe ? RECLAIM_UNSAFE : RECLAIM_INHIBIT, GRANULE);
	if (r >= 0 && properties & WORLD_PINNER && !world.unsafe)
		r = add_device();
	if (r >= 0)
		r = virtio_balloon_init(&world.balloon, &fuzz.map, &world.reclaim, NULL,
					&config);
	fuzz.virtio = &world.balloon.virtio;
	return r;
}

static void end_world(void)
{
	virtio_balloon_finish(&world.balloon);
	check_all_given_back();
	for (unsigned int i = 0; i < nitems(world.inhibitors); i++) {
		world.raised[i] = false;
		inhibitor_lower(&world.reclaim, &world.inhibitors[i]);
	}
	memset(world.pinned, 0, sizeof(world.pinned));
	pinner_leave(&world.reclaim, &world.pinner);
	reclaim_finish(&world.reclaim);
	fuzz_end();
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	return ram_init(&memfd, 2 * FUZZ_SIZE, RAM_MEMFD);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	static void (*const steps[])(void) = {
		step_start,  step_element, step_kick,  step_desc,   step_publish,
		step_avail,  step_bytes,   step_queue, step_status, step_features,
		step_config, step_inhibit, step_host,  step_reset,  step_indirect,
	};
	size_t nr_properties = size > 0;

	memset(&world, 0, sizeof(world));
	trace_listen(watch);
	if (make_world(size > 0 ? bytes[0] : 0, bytes + nr_properties, size - nr_properties) <
	    0)
		abort(); /* of this process's making, not the input's */
	fuzz_run(steps, nitems(steps), check_books);
	end_world();
	trace_listen(NULL);
	fuzz_empty(world.ram);
	return 0;
}
