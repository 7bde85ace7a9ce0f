/* SPDX-License-Identifier: MIT */
/*
 * balloon.c - a hostile balloon driver, as libFuzzer plays it: what it does, step by step, is
 * the input. After each step the books must be right; at the end all memory is the guest's.
 *
 * An input is a byte of the world's properties, then steps: a byte each, and operands as the
 * step takes them. What is missing at the end reads as zeros.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <sys/mman.h>

#include <linux/virtio_ring.h>

#include "base/log.h"
#include "base/trace.h"

#include "devices/virtio_balloon.h"
#include "memory/access.h"
#include "memory/map.h"
#include "memory/ram.h"
#include "memory/reclaim.h"

#define PAGE 4096u
#define HUGE_PAGE (2ull << 20)
#define SIZE (2 * HUGE_PAGE) /* of low RAM, and of high RAM */
#define HIGH_GPA 0x100000000ull
#define GRANULE (64ull << 10) /* where there is a device; huge pages are larger */
#define NR_PAGES (2 * SIZE / PAGE)

/* Where a driver that behaves has its queues. */
#define RING(queue) (0x4000ull * (queue))
#define AVAIL 0x1000ull
#define USED 0x2000ull
#define BUFFER 0x100000ull
#define POOL_PFN ((uint32_t)(HUGE_PAGE / PAGE))
#define HIGH_PFN ((uint32_t)(HIGH_GPA / PAGE))

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
int __wrap_log_err(int r, const char *fmt, ...);

/* Exists only while an input runs. */
static struct {
	const uint8_t *at; /* the input */
	const uint8_t *end;
	struct ram *ram; /* one of those below */
	struct memory_map map;
	struct memory_region low, high;
	struct reclaim reclaim;
	struct inhibitor inhibitors[2];
	bool raised[2];
	struct virtio_balloon balloon;
	uint16_t next_avail[VIRTIO_MAX_QUEUES];
	bool unsafe;
	bool host_is_full;     /* populating fails */
	bool reporting;        /* what was traced last is a report */
	bool may_go[NR_PAGES]; /* the balloon holds it, or a report names it */
	bool reported[NR_PAGES];
	struct pinner pinner;
	bool pinned[NR_PAGES];
} world;

/* Made once, since that takes longer than most inputs; emptied after each. */
static struct ram anonymous, memfd;

/* The kernel, and the log */

int __wrap_ram_populate(struct ram *ram, uint64_t offset, uint64_t size)
{
	return world.host_is_full ? -ENOMEM : __real_ram_populate(ram, offset, size);
}

/* A host without memory would be told of a million times. */
int __wrap_log_err(int r, const char *fmt, ...)
{
	(void)fmt;
	return r;
}

/* Where guest address `gpa` stands in the block; < 0: nowhere. */
static int64_t page_at(gpa_t gpa)
{
	if (gpa < SIZE)
		return (int64_t)(gpa / PAGE);
	if (gpa >= HIGH_GPA && gpa < HIGH_GPA + SIZE)
		return (int64_t)((gpa - HIGH_GPA + SIZE) / PAGE);
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

	assert(offset + size <= 2 * SIZE && size > 0);
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

static uint8_t next8(void)
{
	return world.at < world.end ? *world.at++ : 0;
}

static uint16_t next16(void)
{
	uint16_t low = next8();
	return (uint16_t)(low | next8() << 8);
}

static uint32_t next32(void)
{
	uint32_t low = next16();
	return low | (uint32_t)next16() << 16;
}

static uint64_t next64(void)
{
	uint64_t low = next32();
	return low | (uint64_t)next32() << 32;
}

static gpa_t next_gpa(void)
{
	static const gpa_t edges[] = {
		0,        SIZE - 1,      SIZE - 16,           SIZE,
		HIGH_GPA, HIGH_GPA - 16, HIGH_GPA + SIZE - 2, UINT64_MAX
	};

	switch (next8() % 8) {
	case 0:
	case 1: return next16();
	case 2:
	case 3: return BUFFER + next16();
	case 4: return edges[next8() % nitems(edges)];
	case 5: return (gpa_t)next16() * PAGE;
	case 6: return HIGH_GPA + next16();
	default: return next64();
	}
}

static uint32_t next_pfn(void)
{
	switch (next8() % 4) {
	case 0: return POOL_PFN + next16() % (POOL_PFN + 2);
	case 1: return HIGH_PFN + next16() % (2 * POOL_PFN + 2);
	case 2: return next16();
	default: return next32();
	}
}

static unsigned int next_queue(void)
{
	return next8() % world.balloon.virtio.nr_queues;
}

/* Steps. What does not fit into RAM is not written: the driver's CPU would fault. */

static void put(gpa_t gpa, const void *bytes, size_t size)
{
	if (memory_write(&world.map, gpa, bytes, size) < 0)
		return;
}

static void put_desc(unsigned int queue, unsigned int i, struct vring_desc desc)
{
	put(world.balloon.virtio.queues[queue].ring.desc + i * sizeof(desc), &desc,
	    sizeof(desc));
}

static void publish(unsigned int queue, uint16_t head)
{
	const struct virtq *vq = &world.balloon.virtio.queues[queue].ring;
	uint16_t i = world.next_avail[queue]++;

	put(vq->driver + 4 + i % vq->size * sizeof(head), &head, sizeof(head));
	put(vq->driver + 2, &world.next_avail[queue], sizeof(uint16_t));
}

/* Operands one by one: in an initialiser each compiler has an order of its own. */
static void step_desc(void)
{
	struct vring_desc desc;
	unsigned int queue = next_queue();
	unsigned int i = next8();

	desc.addr = next_gpa();
	desc.len = next8() % 4 ? next16() : next32();
	desc.flags = next8() % 8;
	desc.next = next8();
	put_desc(queue, i, desc);
}

static void step_publish(void)
{
	unsigned int queue = next_queue();

	publish(queue, next8() % 4 ? next8() : next16());
}

static void step_avail(void)
{
	unsigned int queue = next_queue();

	world.next_avail[queue] = next16();
	publish(queue, next8());
}

static void step_bytes(void)
{
	uint8_t bytes[256];
	gpa_t gpa = next_gpa();
	size_t n = next8();

	for (size_t i = 0; i < n; i++)
		bytes[i] = next8();
	put(gpa, bytes, n);
}

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
	struct vring_desc desc = { .addr = BUFFER };

	desc.len = put_pfns(BUFFER) * 4;
	if (queue == 3) {
		desc.addr = next_gpa();
		desc.len = next8() * PAGE * 16;
		desc.flags = VRING_DESC_F_WRITE;
	}
	put_desc(queue, 0, desc);
	publish(queue, 0);
	virtio_kick(&world.balloon.virtio, queue);
}

/* As the transport does: sizes that are none are not taken, a queue that is on is left alone. */
static void step_queue(void)
{
	struct virtq *vq = &world.balloon.virtio.queues[next_queue()].ring;

	uint16_t size = (uint16_t)(1u << next8() % 8);
	gpa_t desc = align_down(next_gpa(), 16);
	gpa_t driver = align_down(next_gpa(), 2);
	gpa_t device = align_down(next_gpa(), 4);
	if (vq->enabled)
		return;
	vq->size = size;
	vq->desc = desc;
	vq->driver = driver;
	vq->device = device;
	vq->enabled = true;
}

static void step_features(void)
{
	struct virtio *virtio = &world.balloon.virtio;
	uint32_t half = next8() % 3;

	virtio_set_driver_features(virtio, half, next32());
	(void)virtio_get_driver_features(virtio, half);
	(void)virtio_get_features(virtio, half);
}

static void step_status(void)
{
	virtio_set_status(&world.balloon.virtio, next8());
}

/* Up to DRIVER_OK, with what it takes of the features. */
static void step_start(void)
{
	struct virtio *virtio = &world.balloon.virtio;
	uint32_t features = next8();

	virtio_set_status(virtio, 0);
	virtio_set_status(virtio, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
	virtio_set_driver_features(virtio, 0, features & (uint32_t)virtio->features);
	virtio_set_driver_features(virtio, 1, (uint32_t)(virtio->features >> 32));
	virtio_set_status(virtio, virtio_get_status(virtio) | VIRTIO_CONFIG_S_FEATURES_OK);
	for (unsigned int i = 0; i < virtio->nr_queues; i++) {
		static const uint8_t zeros[4] = { 0 };
		struct virtq *vq = &virtio->queues[i].ring;
		vq->desc = RING(i);
		vq->driver = RING(i) + AVAIL;
		vq->device = RING(i) + USED;
		vq->enabled = true;
		world.next_avail[i] = 0;
		put(vq->driver, zeros, sizeof(zeros));
	}
	virtio_set_status(virtio, virtio_get_status(virtio) | VIRTIO_CONFIG_S_DRIVER_OK);
}

static void step_kick(void)
{
	virtio_kick(&world.balloon.virtio, next_queue());
}

static void step_config(void)
{
	struct virtio *virtio = &world.balloon.virtio;
	unsigned int size = 1u << next8() % 4;
	uint64_t offset = next8() % 4 ? next8() % 20 : next64();

	(void)virtio_config_read(virtio, offset, size);
	virtio_config_write(virtio, offset, size, next64());
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

	switch (next8() % 5) {
	case 0: world.host_is_full = !world.host_is_full; break;
	case 1: b->timer.ready(&b->timer, EPOLLIN); break;
	case 2: b->retry_timer.ready(&b->retry_timer, EPOLLIN); break;
	case 3: virtio_balloon_set_stats_period(b, next8()); break;
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
	assert(virtio_get_status(&world.balloon.virtio) == 0);
	check_all_given_back();
}

static void check_books(void)
{
	struct virtio_balloon_state s;
	struct reclaim_figures f;

	reclaim_figures(&world.reclaim, &f);
	assert(f.held <= 2 * SIZE);
	assert(f.reclaimed <= f.held);
	assert(f.held_back == f.held - f.reclaimed);
	assert(f.incomplete <= f.held_back);
	assert(f.nr_inhibitors == (unsigned int)world.raised[0] + world.raised[1]);
	if (f.nr_inhibitors && f.nr_pinners == 0)
		assert(f.reclaimed == 0);
	check_pinned();
	virtio_balloon_get_state(&world.balloon, &s);
	assert(s.actual <= 2 * SIZE && s.nr_waiting <= 1);
	/* A write of 0 to the status, too, is a reset. */
	if (virtio_get_status(&world.balloon.virtio) == 0)
		assert(f.held == 0);
}

static void run_steps(void)
{
	static void (*const steps[])(void) = {
		step_start,  step_element, step_kick,  step_desc,   step_publish,
		step_avail,  step_bytes,   step_queue, step_status, step_features,
		step_config, step_inhibit, step_host,  step_reset,
	};

	while (world.at < world.end) {
		steps[next8() % nitems(steps)]();
		check_books();
	}
}

/* The world */

static int make_map(uint8_t properties)
{
	bool granules = properties & WORLD_GRANULES;

	world.ram = granules || properties & WORLD_MEMFD ? &memfd : &anonymous;
	world.ram->page_size = granules ? HUGE_PAGE : PAGE;
	memory_map_init(&world.map);
	world.low = (struct memory_region){
		.size = SIZE,
		.host = world.ram->host,
		.ram = world.ram,
		.name = "low",
	};
	world.high = (struct memory_region){
		.gpa = HIGH_GPA,
		.size = SIZE,
		.host = (char *)world.ram->host + SIZE,
		.ram = world.ram,
		.name = "high",
	};
	int r = memory_map_add(&world.map, &world.low);
	return r < 0 ? r : memory_map_add(&world.map, &world.high);
}

static int add_device(void)
{
	world.pinner.ops = &device_ops;
	pinner_join(&world.reclaim, &world.pinner);
	int r = pinner_pin(&world.reclaim, &world.pinner, &world.low);
	return r < 0 ? r : pinner_pin(&world.reclaim, &world.pinner, &world.high);
}

static int make_world(uint8_t properties)
{
	const struct virtio_balloon_config config = {
		.reporting = properties & WORLD_REPORTING && !(properties & WORLD_GRANULES),
		.deflate_on_oom = properties & WORLD_REPORTING,
		.stats_period = properties & WORLD_ASKS ? 1 : 0,
	};

	world.unsafe = properties & WORLD_UNSAFE;
	int r = make_map(properties);
	if (r < 0)
		return r;
	r = reclaim_init(&world.reclaim, &world.map,
			 world.unsafe ? RECLAIM_UNSAFE : RECLAIM_INHIBIT, GRANULE);
	if (r >= 0 && properties & WORLD_PINNER && !world.unsafe)
		r = add_device();
	return r < 0 ? r
		     : virtio_balloon_init(&world.balloon, &world.map, &world.reclaim, NULL,
					   &config);
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
	memory_map_remove(&world.map, &world.high);
	memory_map_remove(&world.map, &world.low);
	memory_map_finish(&world.map);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	log_set_level(LOG_ERROR);
	if (ram_init(&anonymous, 2 * SIZE, RAM_ANONYMOUS) < 0 ||
	    ram_init(&memfd, 2 * SIZE, RAM_MEMFD) < 0)
		abort();
	/* Or each input's first touch clears 2 MiB. */
	(void)madvise(anonymous.host, anonymous.size, MADV_NOHUGEPAGE);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	memset(&world, 0, sizeof(world));
	world.at = bytes;
	world.end = bytes + size;
	trace_listen(watch);
	if (make_world(next8()) < 0)
		abort(); /* of this process's making, not the input's */
	run_steps();
	end_world();
	trace_listen(NULL);
	if (ram_discard(world.ram, 0, 2 * SIZE) < 0)
		abort(); /* likewise */
	return 0;
}
