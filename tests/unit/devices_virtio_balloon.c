/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include <sys/resource.h>
#include <sys/timerfd.h>

#include <linux/virtio_ids.h>
#include <linux/virtio_ring.h>

#include "base/event_loop.h"
#include "base/fd.h"
#include "base/trace.h"

#include "devices/virtio_balloon.h"
#include "memory/access.h"
#include "memory/map.h"
#include "memory/ram.h"
#include "memory/reclaim.h"
#include "tests/fakes/process.h"

#define PAGE 4096ull
#define HUGE_PAGE (2ull << 20)
#define SIZE (16ull << 20) /* of low RAM, and of high RAM */
#define NR_HUGEPAGES "/proc/sys/vm/nr_hugepages"
#define HIGH_GPA 0x100000000ull
#define FAR_GPA (1ull << 43) /* page number 0x80000000 */

#define INFLATE 0u
#define DEFLATE 1u
#define STATS 2u
#define REPORTING 3u
#define QUEUE_SIZE 128u
#define NR_QUEUES 4u

/* The driver's own memory, below what it ever puts into the balloon. */
#define RING(queue) (0x10000ull * ((queue) + 1))
#define BUFFER 0x100000ull
#define STATS_BUFFER 0x180000ull
#define POOL HUGE_PAGE /* guest address */
#define POOL_PFN ((uint32_t)(POOL / PAGE))

#define F_MUST_TELL_HOST VIRTIO_FEATURE(0)
#define F_STATS_VQ VIRTIO_FEATURE(1)
#define F_DEFLATE_ON_OOM VIRTIO_FEATURE(2)
#define F_FREE_PAGE_HINT VIRTIO_FEATURE(3)
#define F_PAGE_POISON VIRTIO_FEATURE(4)
#define F_REPORTING VIRTIO_FEATURE(5)

static struct ram ram, far_ram;
static struct memory_map map;
static struct memory_region low, high, far;
static struct reclaim reclaim;
static struct inhibitor inhibitor;
static struct event_loop loop;
static struct virtio_balloon balloon;
static unsigned int fds_before;
static bool has_hugetlb; /* set before the tests are forked off */

/* What reached memory/ram, as traced. */
static unsigned int nr_discards;
static uint64_t discarded;
static void (*on_take)(void); /* what another of the driver's CPUs does meanwhile */

static void watch(const char *event, uint64_t a, uint64_t b)
{
	(void)a;
	if (strcmp(event, "ram_discard") == 0) {
		nr_discards++;
		discarded += b;
	}
	if (strcmp(event, "reclaim_take") == 0 && on_take)
		on_take();
}

/* The host, which may have no memory left. */

static bool host_is_full;
static bool malloc_fails; /* Check's own, too: for a moment only */

int __real_ram_populate(struct ram *block, uint64_t offset, uint64_t size);
int __wrap_ram_populate(struct ram *block, uint64_t offset, uint64_t size);
void *__real_malloc(size_t size);
void *__wrap_malloc(size_t size);

static unsigned int nr_populates;

int __wrap_ram_populate(struct ram *block, uint64_t offset, uint64_t size)
{
	nr_populates++;
	return host_is_full ? -ENOMEM : __real_ram_populate(block, offset, size);
}

void *__wrap_malloc(size_t size)
{
	return malloc_fails ? NULL : __real_malloc(size);
}

/* The transport: counts. */
static unsigned int nr_queue_interrupts[VIRTIO_MAX_QUEUES];
static unsigned int nr_config_interrupts;

static void count_queue_interrupt(struct virtio *virtio, unsigned int index)
{
	ck_assert_ptr_eq(virtio, &balloon.virtio);
	nr_queue_interrupts[index]++;
}

static void count_config_interrupt(struct virtio *virtio)
{
	ck_assert_ptr_eq(virtio, &balloon.virtio);
	nr_config_interrupts++;
}

static const struct virtio_transport_ops transport = {
	.queue_interrupt = count_queue_interrupt,
	.config_interrupt = count_config_interrupt,
};

/* A world of one kind of RAM, most often `piece` == PAGE; a bigger one makes granules of it. */

static void add_ram(enum ram_backing backing, uint64_t piece)
{
	ck_assert_int_eq(ram_init(&ram, 2 * SIZE, backing), 0);
	if (piece > ram.page_size)
		ram.page_size = piece;
	memory_map_init(&map);
	low = (struct memory_region){
		.size = SIZE,
		.host = ram.host,
		.ram = &ram,
		.name = "low",
	};
	high = (struct memory_region){
		.gpa = HIGH_GPA,
		.size = SIZE,
		.host = (char *)ram.host + SIZE,
		.ram = &ram,
		.name = "high",
	};
	ck_assert_int_eq(memory_map_add(&map, &low), 0);
	ck_assert_int_eq(memory_map_add(&map, &high), 0);
}

static void make_world(enum ram_backing backing, uint64_t piece, enum reclaim_policy policy)
{
	process_keep_log();
	fds_before = process_nr_fds();
	add_ram(backing, piece);
	ck_assert_int_eq(reclaim_init(&reclaim, &map, policy, 0), 0);
	ck_assert_int_eq(event_loop_init(&loop), 0);
	trace_listen(watch);
}

static void init(struct virtio_balloon_config config)
{
	ck_assert_int_eq(virtio_balloon_init(&balloon, &map, &reclaim, &loop, &config), 0);
	balloon.virtio.transport = &transport;
}

/* The driver */

static struct {
	uint16_t next_avail;
	uint16_t next_used;
	gpa_t ring;
} queues[NR_QUEUES];

static void *at(gpa_t gpa, uint64_t size)
{
	void *p = memory_ptr(&map, gpa, size);

	ck_assert_ptr_nonnull(p);
	return p;
}

static void set_status(uint8_t status)
{
	pthread_mutex_lock(&balloon.virtio.lock);
	virtio_set_status(&balloon.virtio, status);
	pthread_mutex_unlock(&balloon.virtio.lock);
}

static uint8_t get_status(void)
{
	pthread_mutex_lock(&balloon.virtio.lock);
	uint8_t status = balloon.virtio.status;
	pthread_mutex_unlock(&balloon.virtio.lock);
	return status;
}

static void set_features(uint64_t features)
{
	pthread_mutex_lock(&balloon.virtio.lock);
	virtio_set_driver_features(&balloon.virtio, 0, (uint32_t)features);
	virtio_set_driver_features(&balloon.virtio, 1, (uint32_t)(features >> 32));
	pthread_mutex_unlock(&balloon.virtio.lock);
}

static void place_queue(unsigned int index, gpa_t ring)
{
	struct virtq *vq = &balloon.virtio.queues[index].ring;

	memset(at(ring, 0x10000), 0, 0x10000);
	queues[index].next_avail = 0;
	queues[index].next_used = 0;
	queues[index].ring = ring;
	vq->size = QUEUE_SIZE;
	vq->desc = ring;
	vq->driver = ring + 0x4000;
	vq->device = ring + 0x8000;
	vq->enabled = true;
}

static void negotiate(uint64_t features)
{
	set_status(VIRTIO_CONFIG_S_ACKNOWLEDGE);
	set_status(VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
	features |= VIRTIO_FEATURE(VIRTIO_F_VERSION_1);
	features &= balloon.virtio.features;
	set_features(features);
	set_status(get_status() | VIRTIO_CONFIG_S_FEATURES_OK);
	ck_assert_uint_ne(get_status() & VIRTIO_CONFIG_S_FEATURES_OK, 0);
	for (unsigned int i = 0; i < balloon.virtio.nr_queues; i++)
		place_queue(i, RING(i));
}

static void driver_ok(void)
{
	set_status(get_status() | VIRTIO_CONFIG_S_DRIVER_OK);
}

static void start(uint64_t features)
{
	negotiate(features);
	driver_ok();
}

static void setup_all(struct virtio_balloon_config config)
{
	make_world(RAM_ANONYMOUS, PAGE, RECLAIM_INHIBIT);
	init(config);
	start(UINT64_MAX);
}

static void setup(void)
{
	setup_all((struct virtio_balloon_config){ 0 });
}

/* Granules of 2 MiB as hugetlb has them, but of memory that every host has. */
static void setup_granules(void)
{
	make_world(RAM_MEMFD, HUGE_PAGE, RECLAIM_INHIBIT);
	init((struct virtio_balloon_config){ 0 });
	start(UINT64_MAX);
}

static void kick(unsigned int index)
{
	virtio_kick(&balloon.virtio, index);
}

static struct vring_desc *desc(unsigned int queue, unsigned int i)
{
	return (struct vring_desc *)at(queues[queue].ring, 0x1000) + i;
}

static void put_desc(unsigned int queue, unsigned int i, gpa_t gpa, uint32_t size,
		     uint16_t flags)
{
	*desc(queue, i) = (struct vring_desc){
		.addr = gpa,
		.len = size,
		.flags = flags,
		.next = (uint16_t)(i + 1),
	};
}

/* The chain that begins with descriptor `head` is the device's from now on. */
static void publish(unsigned int queue, uint16_t head)
{
	struct vring_avail *avail = at(queues[queue].ring + 0x4000, 0x1000);
	uint16_t i = queues[queue].next_avail++;

	avail->ring[i % QUEUE_SIZE] = head;
	__atomic_store_n(&avail->idx, queues[queue].next_avail, __ATOMIC_RELEASE);
}

/* An element of one buffer, in a descriptor of its own. */
static void add(unsigned int queue, gpa_t gpa, uint32_t size, uint16_t flags)
{
	uint16_t head = queues[queue].next_avail % QUEUE_SIZE;

	put_desc(queue, head, gpa, size, flags);
	publish(queue, head);
}

static struct vring_used *used(unsigned int queue)
{
	return at(queues[queue].ring + 0x8000, 0x1000);
}

/* How many elements came back since the last call, each with nothing written into it. */
static unsigned int take_used(unsigned int queue)
{
	unsigned int count = 0;

	for (; queues[queue].next_used != used(queue)->idx; count++) {
		uint16_t i = queues[queue].next_used++ % QUEUE_SIZE;
		ck_assert_uint_eq(used(queue)->ring[i].len, 0);
	}
	return count;
}

static void write_pfns(gpa_t gpa, const uint32_t *pfns, unsigned int nr)
{
	ck_assert_int_eq(memory_write(&map, gpa, pfns, nr * sizeof(*pfns)), 0);
}

static bool is_set(const struct event_source *timer)
{
	struct itimerspec left;

	ck_assert_int_eq(timerfd_gettime(timer->fd, &left), 0);
	return left.it_value.tv_sec || left.it_value.tv_nsec || left.it_interval.tv_sec;
}

/* The timer's: what was taken in parts of huge pages is discarded. */
static void pass_a_second(void)
{
	if (balloon.rests)
		balloon.rest_timer.ready(&balloon.rest_timer, EPOLLIN);
}

/* The balloon hears of it, and a second passes. */
static void lower(void)
{
	pass_a_second();
	(void)timerfd_settime(balloon.rest_timer.fd, 0, &(struct itimerspec){ 0 }, NULL);
	inhibitor_lower(&reclaim, &inhibitor);
	ck_assert_uint_eq(nr_discards, 0);
	ck_assert(is_set(&balloon.rest_timer));
	balloon.rest_timer.ready(&balloon.rest_timer, EPOLLIN);
}

static void send(unsigned int queue, const uint32_t *pfns, unsigned int nr)
{
	write_pfns(BUFFER, pfns, nr);
	add(queue, BUFFER, nr * (uint32_t)sizeof(*pfns), 0);
	kick(queue);
	pass_a_second();
}

static void send_run(unsigned int queue, uint32_t first, unsigned int nr)
{
	uint32_t *pfns = at(BUFFER, nr * sizeof(*pfns));

	for (uint32_t i = 0; i < nr; i++)
		pfns[i] = first + i;
	add(queue, BUFFER, nr * (uint32_t)sizeof(*pfns), 0);
	kick(queue);
	pass_a_second();
}

static void fill(gpa_t gpa, uint64_t size)
{
	memset(at(gpa, size), 0xaa, size);
}

static bool is(gpa_t gpa, uint64_t size, uint8_t value)
{
	const uint8_t *bytes = at(gpa, size);

	return bytes[0] == value && memcmp(bytes, bytes + 1, size - 1) == 0;
}

static bool is_broken(void)
{
	return get_status() & VIRTIO_CONFIG_S_NEEDS_RESET;
}

static struct reclaim_figures figures(void)
{
	struct reclaim_figures f;

	reclaim_figures(&reclaim, &f);
	return f;
}

static struct virtio_balloon_state state(void)
{
	struct virtio_balloon_state s;

	virtio_balloon_get_state(&balloon, &s);
	return s;
}

static struct virtio_balloon_stats stats(void)
{
	struct virtio_balloon_stats s;

	virtio_balloon_get_stats(&balloon, &s);
	return s;
}

static uint64_t config_get(unsigned int offset, unsigned int size)
{
	return virtio_config_read(&balloon.virtio, offset, size);
}

static void config_set(unsigned int offset, unsigned int size, uint64_t value)
{
	virtio_config_write(&balloon.virtio, offset, size, value);
}

/* One event of the loop, if there is one within that time. */
static bool run_once(int timeout_ms)
{
	struct epoll_event e;

	if (epoll_wait(loop.epoll_fd, &e, 1, timeout_ms) != 1)
		return false;
	struct event_source *source = e.data.ptr;
	source->ready(source, e.events);
	return true;
}

/* Features, queues, config space */

START_TEST(what_was_asked_for_is_offered)
{
	const uint64_t always = VIRTIO_FEATURE(VIRTIO_F_VERSION_1) | F_MUST_TELL_HOST |
				F_STATS_VQ | F_PAGE_POISON;

	make_world(RAM_ANONYMOUS, PAGE, RECLAIM_INHIBIT);
	init((struct virtio_balloon_config){ 0 });
	ck_assert_uint_eq(balloon.virtio.device_id, VIRTIO_ID_BALLOON);
	ck_assert_uint_eq(balloon.virtio.features & always, always);
	ck_assert_uint_eq(balloon.virtio.features &
				  (F_DEFLATE_ON_OOM | F_FREE_PAGE_HINT | F_REPORTING),
			  0);
	virtio_balloon_finish(&balloon);
	init((struct virtio_balloon_config){ .deflate_on_oom = true });
	ck_assert_uint_ne(balloon.virtio.features & F_DEFLATE_ON_OOM, 0);
	virtio_balloon_finish(&balloon);
	init((struct virtio_balloon_config){ .reporting = true });
	ck_assert_uint_ne(balloon.virtio.features & F_REPORTING, 0);
	ck_assert_uint_eq(balloon.virtio.features & F_FREE_PAGE_HINT, 0);
}
END_TEST

/* As Linux counts: of the queues whose features it took. */
START_TEST(without_statistics_reporting_is_queue_2)
{
	make_world(RAM_ANONYMOUS, PAGE, RECLAIM_INHIBIT);
	init((struct virtio_balloon_config){ .reporting = true });
	start(~F_STATS_VQ);
	add(2, POOL, HUGE_PAGE, VRING_DESC_F_WRITE);
	kick(2);
	ck_assert_uint_eq(take_used(2), 1);
	ck_assert_uint_eq(figures().reports.bytes, HUGE_PAGE);
	add(3, POOL, HUGE_PAGE, VRING_DESC_F_WRITE);
	kick(3);
	ck_assert_uint_eq(take_used(2) + take_used(3), 0);
	ck_assert_int_eq(virtio_balloon_request_stats(&balloon), -ENOTCONN);
}
END_TEST

/* As the specification counts: those of features not taken keep their numbers. */
START_TEST(a_driver_may_leave_a_gap_for_the_statistics_it_did_not_take)
{
	make_world(RAM_ANONYMOUS, PAGE, RECLAIM_INHIBIT);
	init((struct virtio_balloon_config){ .reporting = true });
	negotiate(~F_STATS_VQ);
	balloon.virtio.queues[2].ring.enabled = false;
	driver_ok();
	add(3, POOL, HUGE_PAGE, VRING_DESC_F_WRITE);
	kick(3);
	ck_assert_uint_eq(take_used(3), 1);
	ck_assert_uint_eq(figures().reports.bytes, HUGE_PAGE);
}
END_TEST

START_TEST(reporting_is_queue_3_and_without_it_there_are_three)
{
	make_world(RAM_ANONYMOUS, PAGE, RECLAIM_INHIBIT);
	init((struct virtio_balloon_config){ 0 });
	ck_assert_uint_eq(balloon.virtio.nr_queues, 3);
	virtio_balloon_finish(&balloon);
	init((struct virtio_balloon_config){ .reporting = true });
	ck_assert_uint_eq(balloon.virtio.nr_queues, 4);
	ck_assert_uint_eq(balloon.nr_reporting, REPORTING);
	for (unsigned int i = 0; i < balloon.virtio.nr_queues; i++)
		ck_assert_uint_eq(balloon.virtio.queues[i].ring.max_size, QUEUE_SIZE);
	start(UINT64_MAX);
	add(REPORTING, POOL, HUGE_PAGE, VRING_DESC_F_WRITE);
	kick(REPORTING);
	ck_assert_uint_eq(take_used(REPORTING), 1);
	ck_assert_uint_eq(figures().reports.bytes, HUGE_PAGE);
}
END_TEST

START_TEST(a_queue_of_a_feature_not_taken_is_not_served)
{
	make_world(RAM_ANONYMOUS, PAGE, RECLAIM_INHIBIT);
	init((struct virtio_balloon_config){ .reporting = true });
	start(F_MUST_TELL_HOST);
	add(REPORTING, POOL, HUGE_PAGE, VRING_DESC_F_WRITE);
	kick(REPORTING);
	add(STATS, STATS_BUFFER, 10, 0);
	kick(STATS);
	ck_assert_uint_eq(take_used(REPORTING), 0);
	ck_assert_uint_eq(nr_discards, 0);
	ck_assert_uint_eq(stats().nr_updates, 0);
}
END_TEST

START_TEST(only_actual_is_the_drivers_to_write)
{
	make_world(RAM_ANONYMOUS, PAGE, RECLAIM_INHIBIT);
	init((struct virtio_balloon_config){ 0 });
	start(F_STATS_VQ);
	ck_assert_uint_eq(balloon.virtio.config_size, 16);
	for (unsigned int offset = 0; offset < 16; offset += 4)
		config_set(offset, 4, 0x11223344);
	ck_assert_uint_eq(config_get(0, 4), 0);
	ck_assert_uint_eq(config_get(4, 4), 0x11223344);
	ck_assert_uint_eq(config_get(8, 4), 0);
	ck_assert_uint_eq(config_get(12, 4), 0);
}
END_TEST

START_TEST(poison_is_the_drivers_to_write_if_it_poisons)
{
	setup();
	config_set(12, 4, 0xaaaaaaaa);
	ck_assert_uint_eq(config_get(12, 4), 0xaaaaaaaa);
	ck_assert_uint_eq(config_get(8, 4), 0);
}
END_TEST

START_TEST(config_space_takes_bytes_and_words)
{
	setup();
	config_set(4, 1, 0x44);
	config_set(5, 1, 0x33);
	config_set(6, 2, 0x1122);
	ck_assert_uint_eq(config_get(4, 4), 0x11223344);
	ck_assert_uint_eq(config_get(6, 2), 0x1122);
	ck_assert_uint_eq(config_get(7, 1), 0x11);
	config_set(15, 1, 0xff);
	ck_assert_uint_eq(config_get(12, 4), 0xff000000);
	config_set(2, 4, 0xffffffff); /* half of num_pages, half of actual */
	ck_assert_uint_eq(config_get(0, 4), 0);
	ck_assert_uint_eq(config_get(4, 4), 0x1122ffff);
}
END_TEST

/* Inflate */

START_TEST(contiguous_pages_in_any_order_are_one_discard)
{
	uint32_t pfns[256];

	setup();
	fill(POOL - PAGE, 258 * PAGE);
	for (uint32_t i = 0; i < 256; i++)
		pfns[i] = POOL_PFN + i * 101 % 256;
	send(INFLATE, pfns, 256);
	ck_assert_uint_eq(take_used(INFLATE), 1);
	ck_assert_uint_eq(nr_queue_interrupts[INFLATE], 1);
	ck_assert_uint_eq(nr_discards, 1);
	ck_assert_uint_eq(discarded, 256 * PAGE);
	ck_assert(is(POOL - PAGE, PAGE, 0xaa));
	ck_assert(is(POOL, 256 * PAGE, 0));
	ck_assert(is(POOL + 256 * PAGE, PAGE, 0xaa));
	process_expect_no_log();
}
END_TEST

START_TEST(a_part_of_a_huge_page_is_discarded_within_a_second)
{
	uint32_t pfn = POOL_PFN;

	setup();
	fill(POOL, PAGE);
	write_pfns(BUFFER, &pfn, 1);
	add(INFLATE, BUFFER, sizeof(pfn), 0);
	kick(INFLATE);
	ck_assert_uint_eq(take_used(INFLATE), 1);
	ck_assert_uint_eq(nr_discards, 0);
	ck_assert(is_set(&balloon.rest_timer));
	while (nr_discards == 0)
		ck_assert(run_once(30000));
	ck_assert_uint_eq(nr_discards, 1);
	ck_assert(is(POOL, PAGE, 0));
	ck_assert(!is_set(&balloon.rest_timer));
}
END_TEST

START_TEST(each_run_is_one_discard_and_gaps_stay)
{
	const uint32_t pfns[] = { POOL_PFN + 5, POOL_PFN, POOL_PFN + 1, POOL_PFN + 4,
				  HIGH_GPA / PAGE };

	setup();
	fill(POOL, 7 * PAGE);
	fill(HIGH_GPA, 2 * PAGE);
	send(INFLATE, pfns, nitems(pfns));
	ck_assert_uint_eq(nr_discards, 3);
	ck_assert(is(POOL, 2 * PAGE, 0));
	ck_assert(is(POOL + 2 * PAGE, 2 * PAGE, 0xaa));
	ck_assert(is(POOL + 4 * PAGE, 2 * PAGE, 0));
	ck_assert(is(POOL + 6 * PAGE, PAGE, 0xaa));
	ck_assert(is(HIGH_GPA, PAGE, 0));
	ck_assert(is(HIGH_GPA + PAGE, PAGE, 0xaa));
	ck_assert_uint_eq(figures().held, nitems(pfns) * PAGE);
}
END_TEST

START_TEST(a_page_named_twice_counts_once)
{
	const uint32_t pfns[] = { POOL_PFN + 1, POOL_PFN, POOL_PFN + 1, POOL_PFN, POOL_PFN };

	setup();
	send(INFLATE, pfns, nitems(pfns));
	ck_assert_uint_eq(nr_discards, 1);
	ck_assert_uint_eq(figures().held, 2 * PAGE);
	send(INFLATE, pfns, nitems(pfns));
	ck_assert_uint_eq(take_used(INFLATE), 2);
	ck_assert_uint_eq(figures().held, 2 * PAGE);
	ck_assert_uint_eq(figures().reclaimed, 2 * PAGE);
}
END_TEST

START_TEST(memfd_pages_are_discarded_too)
{
	make_world(RAM_MEMFD, PAGE, RECLAIM_INHIBIT);
	init((struct virtio_balloon_config){ 0 });
	start(UINT64_MAX);
	fill(POOL, 4 * PAGE);
	send_run(INFLATE, POOL_PFN + 1, 2);
	ck_assert_uint_eq(nr_discards, 1);
	ck_assert(is(POOL, PAGE, 0xaa));
	ck_assert(is(POOL + PAGE, 2 * PAGE, 0));
	ck_assert(is(POOL + 3 * PAGE, PAGE, 0xaa));
}
END_TEST

START_TEST(an_inhibited_page_is_held_and_the_guest_sees_success)
{
	setup();
	fill(POOL, 256 * PAGE);
	inhibitor_raise(&reclaim, &inhibitor, "a test");
	send_run(INFLATE, POOL_PFN, 256);
	ck_assert_uint_eq(take_used(INFLATE), 1);
	ck_assert_uint_eq(nr_queue_interrupts[INFLATE], 1);
	ck_assert_uint_eq(nr_discards, 0);
	ck_assert(is(POOL, 256 * PAGE, 0xaa));
	ck_assert_uint_eq(figures().held, 256 * PAGE);
	ck_assert_uint_eq(figures().reclaimed, 0);
	lower();
	ck_assert_uint_eq(nr_discards, 1);
	ck_assert(is(POOL, 256 * PAGE, 0));
	ck_assert_uint_eq(figures().reclaimed, 256 * PAGE);
}
END_TEST

START_TEST(what_was_deflated_before_the_inhibitor_went_is_not_discarded)
{
	setup();
	fill(POOL, 4 * PAGE);
	inhibitor_raise(&reclaim, &inhibitor, "a test");
	send_run(INFLATE, POOL_PFN, 4);
	send_run(DEFLATE, POOL_PFN + 1, 2);
	ck_assert_uint_eq(take_used(DEFLATE), 1);
	lower();
	ck_assert(is(POOL, PAGE, 0));
	ck_assert(is(POOL + PAGE, 2 * PAGE, 0xaa));
	ck_assert(is(POOL + 3 * PAGE, PAGE, 0));
}
END_TEST

START_TEST(of_a_driver_that_may_not_tell_nothing_is_discarded_later)
{
	make_world(RAM_ANONYMOUS, PAGE, RECLAIM_INHIBIT);
	init((struct virtio_balloon_config){ 0 });
	start(F_STATS_VQ);
	ck_assert(!state().tells_host);
	fill(POOL, 4 * PAGE);
	inhibitor_raise(&reclaim, &inhibitor, "a test");
	send_run(INFLATE, POOL_PFN, 2);
	inhibitor_lower(&reclaim, &inhibitor);
	ck_assert(is(POOL, 4 * PAGE, 0xaa));
	send_run(INFLATE, POOL_PFN + 2, 2);
	ck_assert(is(POOL, 2 * PAGE, 0xaa));
	ck_assert(is(POOL + 2 * PAGE, 2 * PAGE, 0));
}
END_TEST

START_TEST(unsafe_discards_under_the_pin)
{
	make_world(RAM_ANONYMOUS, PAGE, RECLAIM_UNSAFE);
	init((struct virtio_balloon_config){ 0 });
	start(UINT64_MAX);
	fill(POOL, 2 * PAGE);
	inhibitor_raise(&reclaim, &inhibitor, "a test");
	send_run(INFLATE, POOL_PFN, 2);
	ck_assert_uint_eq(nr_discards, 1);
	ck_assert(is(POOL, 2 * PAGE, 0));
	inhibitor_lower(&reclaim, &inhibitor);
}
END_TEST

/* The driver's elements hold 256 page numbers, a granule is 512. */
static void complete_a_granule(void)
{
	fill(POOL, 2 * HUGE_PAGE);
	send_run(INFLATE, POOL_PFN + 256, 256);
	ck_assert_uint_eq(nr_discards, 0);
	ck_assert_uint_eq(figures().incomplete, HUGE_PAGE / 2);
	ck_assert(is(POOL, 2 * HUGE_PAGE, 0xaa));
	send_run(INFLATE, POOL_PFN, 256);
	ck_assert_uint_eq(nr_discards, 1);
	ck_assert_uint_eq(discarded, HUGE_PAGE);
	ck_assert_uint_eq(figures().incomplete, 0);
	ck_assert_uint_eq(take_used(INFLATE), 2);
}

START_TEST(a_granule_is_completed_across_elements)
{
	setup_granules();
	complete_a_granule();
	ck_assert(is(POOL, HUGE_PAGE, 0));
	ck_assert(is(POOL + HUGE_PAGE, HUGE_PAGE, 0xaa));
}
END_TEST

START_TEST(a_hugetlb_page_is_completed_across_elements)
{
	if (!has_hugetlb)
		return;
	make_world(RAM_HUGETLB, HUGE_PAGE, RECLAIM_INHIBIT);
	init((struct virtio_balloon_config){ 0 });
	start(UINT64_MAX);
	complete_a_granule();
	ck_assert(is(POOL + HUGE_PAGE, HUGE_PAGE, 0xaa));
	send_run(DEFLATE, POOL_PFN, 256);
	ck_assert_uint_eq(take_used(DEFLATE), 1);
	ck_assert(is(POOL, HUGE_PAGE, 0));
}
END_TEST

/* Half of it, a reset, the other half: what the first half holds is in use again. */
START_TEST(a_granule_half_held_is_forgotten_by_a_reset)
{
	setup_granules();
	fill(POOL, HUGE_PAGE);
	send_run(INFLATE, POOL_PFN, 511);
	set_status(0);
	start(UINT64_MAX);
	send_run(INFLATE, POOL_PFN + 511, 1);
	ck_assert_uint_eq(nr_discards, 0);
	ck_assert(is(POOL, HUGE_PAGE, 0xaa));
}
END_TEST

/* What drivers may get wrong */

START_TEST(deflating_what_was_never_inflated_does_nothing)
{
	setup();
	fill(POOL, 4 * PAGE);
	send_run(DEFLATE, POOL_PFN, 4);
	ck_assert_uint_eq(take_used(DEFLATE), 1);
	ck_assert_uint_eq(nr_queue_interrupts[DEFLATE], 1);
	ck_assert(is(POOL, 4 * PAGE, 0xaa));
	ck_assert_uint_eq(figures().held, 0);
	process_expect_no_log();
}
END_TEST

static void expect_ignored(unsigned int queue, uint32_t pfn)
{
	send(queue, &pfn, 1);
	ck_assert_uint_eq(take_used(queue), 1);
	ck_assert_uint_eq(nr_discards, 0);
	ck_assert_uint_eq(figures().held, 0);
	ck_assert(!is_broken());
	process_expect_log("not all RAM");
}

START_TEST(a_page_that_is_no_ram_is_skipped)
{
	static const uint32_t pfns[] = {
		SIZE / PAGE,              /* in the hole */
		HIGH_GPA / PAGE - 1,      /* its end */
		(HIGH_GPA + SIZE) / PAGE, /* beyond everything */
		0x7fffffff,
		0x80000000,
		0xffffffff,
	};

	setup();
	for (unsigned int i = 0; i < nitems(pfns); i++)
		expect_ignored(i % 2 ? DEFLATE : INFLATE, pfns[i]);
}
END_TEST

START_TEST(what_is_ram_beside_it_is_taken)
{
	setup();
	fill(SIZE - 2 * PAGE, 2 * PAGE);
	send_run(INFLATE, SIZE / PAGE - 1, 3);
	ck_assert_uint_eq(take_used(INFLATE), 1);
	ck_assert_uint_eq(figures().held, PAGE);
	ck_assert(is(SIZE - 2 * PAGE, PAGE, 0xaa));
	ck_assert(is(SIZE - PAGE, PAGE, 0));
}
END_TEST

/* RAM so high that a sign extended, or a shift done in 32 bits, would miss it. */
START_TEST(the_highest_page_numbers_are_no_negative_ones)
{
	const uint32_t pfns[] = { 0x80000001, 0xfffffffe, 0x80000000, 0xffffffff };
	static struct memory_region top;

	process_keep_log();
	add_ram(RAM_ANONYMOUS, PAGE);
	ck_assert_int_eq(ram_init(&far_ram, 8 * PAGE, RAM_ANONYMOUS), 0);
	far = (struct memory_region){
		.gpa = FAR_GPA,
		.size = 4 * PAGE,
		.host = far_ram.host,
		.ram = &far_ram,
		.name = "far",
	};
	top = far;
	top.gpa = 2 * FAR_GPA - 4 * PAGE;
	top.host = (char *)far_ram.host + 4 * PAGE;
	ck_assert_int_eq(memory_map_add(&map, &far), 0);
	ck_assert_int_eq(memory_map_add(&map, &top), 0);
	ck_assert_int_eq(reclaim_init(&reclaim, &map, RECLAIM_INHIBIT, 0), 0);
	ck_assert_int_eq(event_loop_init(&loop), 0);
	trace_listen(watch);
	init((struct virtio_balloon_config){ 0 });
	start(UINT64_MAX);
	fill(FAR_GPA, 4 * PAGE);
	fill(top.gpa, 4 * PAGE);
	send(INFLATE, pfns, nitems(pfns));
	ck_assert_uint_eq(nr_discards, 2);
	ck_assert(is(FAR_GPA, 2 * PAGE, 0));
	ck_assert(is(FAR_GPA + 2 * PAGE, 2 * PAGE, 0xaa));
	ck_assert(is(top.gpa, 2 * PAGE, 0xaa));
	ck_assert(is(top.gpa + 2 * PAGE, 2 * PAGE, 0));
	process_expect_no_log();
}
END_TEST

START_TEST(a_guest_that_goes_on_lying_fills_no_log)
{
	const uint32_t pfn = 0xffffffff;
	unsigned int nr_lines = 0;

	setup();
	for (unsigned int i = 0; i < 1000; i++)
		send(INFLATE, &pfn, 1);
	ck_assert_uint_eq(take_used(INFLATE), 1000);
	for (const char *p = process_log(); (p = strchr(p, '\n')); p++)
		nr_lines++;
	ck_assert_uint_eq(nr_lines, LOG_GUEST_BURST + 1);
}
END_TEST

START_TEST(an_element_outside_of_ram_is_handed_back_undone)
{
	static const gpa_t gpas[] = { SIZE, HIGH_GPA - 2, HIGH_GPA + SIZE - 4, UINT64_MAX - 3 };

	setup();
	for (unsigned int i = 0; i < nitems(gpas); i++) {
		add(i % 2, gpas[i], 8, 0);
		kick(i % 2);
		ck_assert_uint_eq(take_used(i % 2), 1);
		ck_assert(!is_broken());
		process_expect_log("outside of RAM");
	}
	ck_assert_uint_eq(figures().held, 0);
}
END_TEST

START_TEST(a_length_that_lies_does_nothing)
{
	setup();
	add(INFLATE, SIZE - 8, 64, 0);
	kick(INFLATE);
	ck_assert_uint_eq(take_used(INFLATE), 1);
	ck_assert_uint_eq(figures().held, 0);
	add(INFLATE, BUFFER, 0, 0);
	kick(INFLATE);
	ck_assert_uint_eq(take_used(INFLATE), 1);
	ck_assert(!is_broken());
	add(INFLATE, BUFFER, UINT32_MAX, 0);
	kick(INFLATE);
	ck_assert_uint_eq(take_used(INFLATE), 0);
	ck_assert(is_broken());
	ck_assert_uint_eq(figures().held, 0);
}
END_TEST

/* As many numbers as the buffer holds, over and over, in `nr` descriptors of 64 KiB. */
static void send_large(unsigned int nr, uint32_t extra)
{
	uint32_t *pfns = at(BUFFER, 0x10000);

	for (uint32_t i = 0; i < 0x4000; i++)
		pfns[i] = POOL_PFN + i % 16;
	for (unsigned int i = 0; i < nr; i++)
		put_desc(INFLATE, i, BUFFER, 0x10000, VRING_DESC_F_NEXT);
	put_desc(INFLATE, nr, BUFFER, extra, 0);
	publish(INFLATE, 0);
	kick(INFLATE);
	pass_a_second();
}

START_TEST(the_largest_element_is_served)
{
	setup();
	send_large(VIRTIO_BALLOON_MAX_PFNS / 0x4000, 3);
	ck_assert_uint_eq(take_used(INFLATE), 1);
	ck_assert_uint_eq(figures().held, 16 * PAGE);
	ck_assert_uint_eq(nr_discards, 1);
}
END_TEST

START_TEST(a_larger_element_breaks_the_device_until_it_is_reset)
{
	setup();
	send_large(VIRTIO_BALLOON_MAX_PFNS / 0x4000, 4);
	ck_assert(is_broken());
	ck_assert_uint_eq(take_used(INFLATE), 0);
	ck_assert_uint_eq(figures().held, 0);
	ck_assert(!state().running);
	send_run(INFLATE, POOL_PFN, 4);
	send_run(DEFLATE, POOL_PFN, 4);
	ck_assert_uint_eq(take_used(INFLATE), 0);
	ck_assert_uint_eq(take_used(DEFLATE), 0);
	set_status(0);
	start(UINT64_MAX);
	ck_assert(!is_broken());
	send_run(INFLATE, POOL_PFN, 4);
	ck_assert_uint_eq(take_used(INFLATE), 1);
}
END_TEST

START_TEST(an_element_with_half_a_number_at_its_end_loses_that)
{
	const uint32_t pfns[] = { POOL_PFN, POOL_PFN + 2, POOL_PFN + 4 };

	setup();
	write_pfns(BUFFER, pfns, 3);
	for (uint32_t size = 0; size <= 11; size++) {
		add(INFLATE, BUFFER, size, 0);
		kick(INFLATE);
		ck_assert_uint_eq(take_used(INFLATE), 1);
		ck_assert_uint_eq(figures().held, size / 4 * PAGE);
	}
	process_expect_no_log();
}
END_TEST

START_TEST(a_number_may_lie_across_two_buffers)
{
	const uint32_t pfn = POOL_PFN + 7;

	setup();
	fill(POOL, 8 * PAGE);
	write_pfns(BUFFER, &pfn, 1);
	memcpy(at(BUFFER + 0x1000, 2), at(BUFFER + 2, 2), 2);
	put_desc(INFLATE, 0, BUFFER, 2, VRING_DESC_F_NEXT);
	put_desc(INFLATE, 1, BUFFER + 0x1000, 2, 0);
	publish(INFLATE, 0);
	kick(INFLATE);
	pass_a_second();
	ck_assert_uint_eq(take_used(INFLATE), 1);
	ck_assert(is(POOL + 7 * PAGE, PAGE, 0));
	ck_assert(is(POOL, 7 * PAGE, 0xaa));
}
END_TEST

START_TEST(what_is_writable_is_not_read_and_not_written)
{
	const uint32_t pfn = POOL_PFN;

	setup();
	write_pfns(BUFFER, &pfn, 1);
	add(INFLATE, BUFFER, 4, VRING_DESC_F_WRITE);
	kick(INFLATE);
	ck_assert_uint_eq(take_used(INFLATE), 1);
	ck_assert_uint_eq(figures().held, 0);
	ck_assert_int_eq(memcmp(at(BUFFER, 4), &pfn, 4), 0);
}
END_TEST

START_TEST(a_queue_with_more_chains_than_entries_breaks)
{
	setup();
	queues[INFLATE].next_avail = 1000;
	publish(INFLATE, 0);
	kick(INFLATE);
	ck_assert(is_broken());
	ck_assert_uint_eq(figures().held, 0);
}
END_TEST

START_TEST(a_used_ring_outside_of_ram_breaks)
{
	setup();
	balloon.virtio.queues[INFLATE].ring.device = SIZE;
	send_run(INFLATE, POOL_PFN, 4);
	ck_assert(is_broken());
}
END_TEST

START_TEST(queues_may_be_placed_anew_while_running)
{
	setup();
	send_run(INFLATE, POOL_PFN, 4);
	ck_assert_uint_eq(take_used(INFLATE), 1);
	virtq_init(&balloon.virtio.queues[INFLATE].ring, &map, QUEUE_SIZE);
	send_run(INFLATE, POOL_PFN + 4, 4); /* to a queue that is off */
	ck_assert_uint_eq(figures().held, 4 * PAGE);
	place_queue(INFLATE, 0x80000);
	send_run(INFLATE, POOL_PFN + 4, 4);
	ck_assert_uint_eq(take_used(INFLATE), 1);
	ck_assert_uint_eq(figures().held, 8 * PAGE);
	ck_assert(!is_broken());
}
END_TEST

START_TEST(rings_outside_of_ram_break_and_a_reset_mends)
{
	static const gpa_t gpas[] = { SIZE, HIGH_GPA - 16, 0xfffffffffffffff0 };

	setup();
	for (unsigned int i = 0; i < 3 * nitems(gpas); i++) {
		struct virtq *vq = &balloon.virtio.queues[INFLATE].ring;
		gpa_t *part[] = { &vq->desc, &vq->driver, &vq->device };
		*part[i % 3] = gpas[i / 3];
		add(INFLATE, BUFFER, 4, 0);
		kick(INFLATE);
		ck_assert(is_broken());
		set_status(0);
		start(UINT64_MAX);
	}
	send_run(INFLATE, POOL_PFN, 4);
	ck_assert_uint_eq(take_used(INFLATE), 1);
}
END_TEST

/* One kick and the event loop */

static void add_one_more(void)
{
	if (queues[INFLATE].next_avail < 10 * QUEUE_SIZE)
		add(INFLATE, BUFFER, 4, 0);
}

static bool is_kicked(unsigned int queue)
{
	return eventfd_pending(balloon.virtio.queues[queue].kicked.fd);
}

START_TEST(a_driver_that_never_ends_gets_one_queueful_a_kick)
{
	const uint32_t pfn = POOL_PFN;

	setup();
	on_take = add_one_more;
	send(INFLATE, &pfn, 1);
	ck_assert_uint_eq(take_used(INFLATE), QUEUE_SIZE);
	ck_assert(is_kicked(INFLATE));
	on_take = NULL;
	while (is_kicked(INFLATE))
		ck_assert(run_once(0));
	ck_assert_uint_eq(take_used(INFLATE), 1);
}
END_TEST

START_TEST(a_kick_of_many_pages_ends_before_the_queue_does)
{
	setup();
	for (unsigned int i = 0; i < 2; i++)
		publish(INFLATE, 0); /* what send_large() is about to write */
	send_large(VIRTIO_BALLOON_MAX_PFNS / 0x4000, 0);
	ck_assert_uint_eq(take_used(INFLATE), 1);
	ck_assert(is_kicked(INFLATE));
	for (unsigned int i = 0; i < 2; i++) {
		ck_assert(run_once(0));
		ck_assert_uint_eq(take_used(INFLATE), 1);
	}
}
END_TEST

/* Statistics */

struct record {
	uint16_t tag;
	uint64_t value;
} __attribute__((packed));

static void write_record(unsigned int i, uint16_t tag, uint64_t value)
{
	const struct record record = { tag, value };

	memcpy(at(STATS_BUFFER + i * sizeof(record), sizeof(record)), &record, sizeof(record));
}

static void send_stats(uint32_t size)
{
	add(STATS, STATS_BUFFER, size, 0);
	kick(STATS);
}

static unsigned int nr_reported(void)
{
	struct virtio_balloon_stats s = stats();
	unsigned int count = 0;

	for (unsigned int tag = 0; tag < VIRTIO_BALLOON_NR_STATS; tag++)
		count += s.values[tag] != VIRTIO_BALLOON_NO_STAT;
	return count;
}

START_TEST(at_first_there_are_no_statistics)
{
	setup();
	ck_assert_uint_eq(nr_reported(), 0);
	ck_assert_int_eq(stats().updated, 0);
	ck_assert_uint_eq(stats().nr_updates, 0);
}
END_TEST

START_TEST(the_first_buffer_holds_statistics_and_stays_with_the_device)
{
	const time_t before = now_seconds();

	make_world(RAM_ANONYMOUS, PAGE, RECLAIM_INHIBIT);
	init((struct virtio_balloon_config){ 0 });
	negotiate(UINT64_MAX);
	write_record(0, 4, 1234);
	add(STATS, STATS_BUFFER, 10, 0);
	driver_ok();
	ck_assert_uint_eq(stats().values[4], 1234);
	ck_assert_uint_eq(nr_reported(), 1);
	ck_assert_uint_eq(stats().nr_updates, 1);
	ck_assert_int_gt(stats().updated, 0);
	ck_assert_int_ge(stats().arrived, before);
	ck_assert_int_le(stats().arrived, now_seconds());
	ck_assert_uint_eq(take_used(STATS), 0);
}
END_TEST

START_TEST(statistics_may_have_any_size)
{
	static const struct {
		uint32_t size;
		unsigned int nr_reported;
	} cases[] = { { 0, 0 },    { 1, 0 },    { 9, 0 },     { 10, 1 },      { 11, 1 },
		      { 19, 1 },   { 20, 2 },   { 155, 15 },  { 160, 16 },    { 161, 16 },
		      { 169, 16 }, { 170, 16 }, { 2570, 16 }, { 0x10000, 16 } };

	setup();
	for (unsigned int i = 0; i < 0x10000 / 10; i++)
		write_record(i, (uint16_t)i, i);
	for (unsigned int i = 0; i < nitems(cases); i++) {
		send_stats(cases[i].size);
		ck_assert_uint_eq(nr_reported(), cases[i].nr_reported);
		ck_assert_uint_eq(stats().nr_updates, i + 1);
	}
	for (unsigned int tag = 0; tag < VIRTIO_BALLOON_NR_STATS; tag++)
		ck_assert_uint_eq(stats().values[tag], tag);
	process_expect_no_log();
}
END_TEST

START_TEST(unknown_tags_are_ignored_and_the_order_is_free)
{
	setup();
	write_record(0, 15, 1);
	write_record(1, 16, 2);
	write_record(2, 0xffff, 3);
	write_record(3, 0, UINT64_MAX - 1);
	write_record(4, 0x100, 4);
	send_stats(50);
	ck_assert_uint_eq(nr_reported(), 2);
	ck_assert_uint_eq(stats().values[15], 1);
	ck_assert_uint_eq(stats().values[0], UINT64_MAX - 1);
}
END_TEST

START_TEST(what_is_not_reported_again_is_gone)
{
	setup();
	write_record(0, 1, 1);
	send_stats(10);
	write_record(0, 2, 2);
	send_stats(10);
	ck_assert_uint_eq(stats().values[1], VIRTIO_BALLOON_NO_STAT);
	ck_assert_uint_eq(stats().values[2], 2);
}
END_TEST

START_TEST(statistics_outside_of_ram_are_none)
{
	setup();
	add(STATS, SIZE - 5, 10, 0);
	kick(STATS);
	ck_assert_uint_eq(nr_reported(), 0);
	ck_assert(!is_broken());
	process_expect_log("outside of RAM");
	ck_assert_int_eq(virtio_balloon_request_stats(&balloon), 0);
}
END_TEST

START_TEST(asking_hands_the_buffer_back_and_the_answer_counts)
{
	setup();
	ck_assert_int_eq(virtio_balloon_request_stats(&balloon), -EAGAIN);
	send_stats(10);
	ck_assert_uint_eq(take_used(STATS), 0);
	ck_assert_int_eq(virtio_balloon_request_stats(&balloon), 0);
	ck_assert_uint_eq(take_used(STATS), 1);
	ck_assert_uint_eq(nr_queue_interrupts[STATS], 1);
	ck_assert_int_eq(virtio_balloon_request_stats(&balloon), -EAGAIN);
	ck_assert_uint_eq(stats().nr_updates, 1);
	send_stats(10);
	ck_assert_uint_eq(stats().nr_updates, 2);
	ck_assert_int_eq(virtio_balloon_request_stats(&balloon), 0);
	ck_assert_uint_eq(take_used(STATS), 1);
}
END_TEST

START_TEST(without_a_driver_or_its_statistics_there_is_nobody_to_ask)
{
	make_world(RAM_ANONYMOUS, PAGE, RECLAIM_INHIBIT);
	init((struct virtio_balloon_config){ 0 });
	ck_assert_int_eq(virtio_balloon_request_stats(&balloon), -ENOTCONN);
	negotiate(UINT64_MAX);
	ck_assert_int_eq(virtio_balloon_request_stats(&balloon), -ENOTCONN);
	driver_ok();
	ck_assert_int_eq(virtio_balloon_request_stats(&balloon), -EAGAIN);
	set_status(0);
	ck_assert_int_eq(virtio_balloon_request_stats(&balloon), -ENOTCONN);
	start(F_MUST_TELL_HOST);
	ck_assert_int_eq(virtio_balloon_request_stats(&balloon), -ENOTCONN);
}
END_TEST

START_TEST(a_second_buffer_returns_the_first)
{
	setup();
	add(STATS, STATS_BUFFER, 10, 0);
	add(STATS, STATS_BUFFER, 10, 0);
	add(STATS, STATS_BUFFER, 10, 0);
	kick(STATS);
	ck_assert_uint_eq(take_used(STATS), 2);
	ck_assert_uint_eq(used(STATS)->ring[0].id, 0);
	ck_assert_uint_eq(used(STATS)->ring[1].id, 1);
	ck_assert_int_eq(virtio_balloon_request_stats(&balloon), 0);
	ck_assert_uint_eq(used(STATS)->ring[2].id, 2);
}
END_TEST

START_TEST(with_a_period_the_driver_is_asked_at_once_and_again)
{
	make_world(RAM_ANONYMOUS, PAGE, RECLAIM_INHIBIT);
	init((struct virtio_balloon_config){ .stats_period = 1 });
	negotiate(UINT64_MAX);
	add(STATS, STATS_BUFFER, 10, 0);
	driver_ok();
	for (unsigned int i = 0; i < 2; i++) {
		while (take_used(STATS) == 0)
			ck_assert(run_once(30000));
		send_stats(10);
	}
	ck_assert_uint_eq(stats().nr_updates, 3);
}
END_TEST

START_TEST(the_period_may_be_changed_and_ended)
{
	setup();
	ck_assert(!is_set(&balloon.timer));
	send_stats(10);
	virtio_balloon_set_stats_period(&balloon, UINT32_MAX);
	while (take_used(STATS) == 0)
		ck_assert(run_once(30000));
	ck_assert(is_set(&balloon.timer));
	virtio_balloon_set_stats_period(&balloon, 0);
	ck_assert(!is_set(&balloon.timer));
}
END_TEST

START_TEST(a_period_waits_for_a_driver)
{
	make_world(RAM_ANONYMOUS, PAGE, RECLAIM_INHIBIT);
	init((struct virtio_balloon_config){ 0 });
	virtio_balloon_set_stats_period(&balloon, 1);
	ck_assert(!is_set(&balloon.timer));
	start(UINT64_MAX);
	ck_assert(is_set(&balloon.timer));
	set_status(0);
	ck_assert(!is_set(&balloon.timer));
}
END_TEST

START_TEST(a_timer_that_ran_out_before_a_reset_asks_nobody)
{
	setup();
	send_stats(10);
	set_status(0);
	balloon.timer.ready(&balloon.timer, EPOLLIN);
	start(UINT64_MAX);
	balloon.timer.ready(&balloon.timer, EPOLLIN);
	ck_assert_uint_eq(take_used(STATS), 0);
	ck_assert(!is_broken());
}
END_TEST

START_TEST(each_statistic_has_a_name_of_its_own)
{
	for (unsigned int i = 0; i < VIRTIO_BALLOON_NR_STATS; i++) {
		for (unsigned int k = 0; k < i; k++)
			ck_assert_str_ne(virtio_balloon_stat_name(i),
					 virtio_balloon_stat_name(k));
	}
	ck_assert_str_eq(virtio_balloon_stat_name(0), "swap-in");
	ck_assert_str_eq(virtio_balloon_stat_name(4), "free-memory");
	ck_assert_str_eq(virtio_balloon_stat_name(7), "disk-caches");
}
END_TEST

/* Reporting */

static void report(gpa_t gpa, uint32_t size)
{
	add(REPORTING, gpa, size, VRING_DESC_F_WRITE);
	kick(REPORTING);
	ck_assert_uint_eq(take_used(REPORTING), 1);
}

START_TEST(reported_pages_are_discarded_and_not_held)
{
	setup_all((struct virtio_balloon_config){ .reporting = true });
	fill(POOL, 3 * HUGE_PAGE);
	put_desc(REPORTING, 0, POOL, HUGE_PAGE, VRING_DESC_F_WRITE | VRING_DESC_F_NEXT);
	put_desc(REPORTING, 1, POOL + 2 * HUGE_PAGE, PAGE, VRING_DESC_F_WRITE);
	publish(REPORTING, 0);
	kick(REPORTING);
	ck_assert_uint_eq(take_used(REPORTING), 1);
	ck_assert_uint_eq(nr_queue_interrupts[REPORTING], 1);
	ck_assert_uint_eq(nr_discards, 2);
	ck_assert(is(POOL, HUGE_PAGE, 0));
	ck_assert(is(POOL + HUGE_PAGE, HUGE_PAGE, 0xaa));
	ck_assert(is(POOL + 2 * HUGE_PAGE, PAGE, 0));
	ck_assert_uint_eq(figures().held, 0);
}
END_TEST

/* 128 pieces of 4 GiB would keep the event loop for as long as they take. */
START_TEST(one_element_reports_only_so_much)
{
	setup_all((struct virtio_balloon_config){ .reporting = true });
	fill(POOL, HUGE_PAGE);
	put_desc(REPORTING, 0, POOL, 0xfffff000, VRING_DESC_F_WRITE | VRING_DESC_F_NEXT);
	put_desc(REPORTING, 1, POOL, HUGE_PAGE, VRING_DESC_F_WRITE);
	publish(REPORTING, 0);
	kick(REPORTING);
	ck_assert_uint_eq(take_used(REPORTING), 1);
	ck_assert_uint_eq(nr_discards, 0);
	ck_assert(is(POOL, HUGE_PAGE, 0xaa));
	report(POOL, HUGE_PAGE);
	ck_assert_uint_eq(nr_discards, 1);
}
END_TEST

START_TEST(poisoned_pages_are_left_alone)
{
	setup_all((struct virtio_balloon_config){ .reporting = true });
	fill(POOL, HUGE_PAGE);
	config_set(12, 4, 0xaaaaaaaa);
	report(POOL, HUGE_PAGE);
	ck_assert_uint_eq(nr_discards, 0);
	ck_assert(is(POOL, HUGE_PAGE, 0xaa));
	config_set(12, 4, 0);
	report(POOL, HUGE_PAGE);
	ck_assert_uint_eq(nr_discards, 1);
}
END_TEST

START_TEST(a_report_while_an_inhibitor_is_raised_does_nothing)
{
	static const enum reclaim_policy policies[] = { RECLAIM_INHIBIT, RECLAIM_UNSAFE };

	for (unsigned int i = 0; i < nitems(policies); i++) {
		make_world(RAM_ANONYMOUS, PAGE, policies[i]);
		init((struct virtio_balloon_config){ .reporting = true });
		start(UINT64_MAX);
		fill(POOL, HUGE_PAGE);
		inhibitor_raise(&reclaim, &inhibitor, "a test");
		report(POOL, HUGE_PAGE);
		inhibitor_lower(&reclaim, &inhibitor);
		ck_assert_uint_eq(nr_discards, 0);
		ck_assert(is(POOL, HUGE_PAGE, 0xaa));
		virtio_balloon_finish(&balloon);
		reclaim_finish(&reclaim);
		memory_map_remove(&map, &high);
		memory_map_remove(&map, &low);
		ram_finish(&ram);
	}
}
END_TEST

START_TEST(a_report_of_what_is_no_ram_is_ignored_in_silence)
{
	setup_all((struct virtio_balloon_config){ .reporting = true });
	report(SIZE, HUGE_PAGE);
	report(SIZE - PAGE, HUGE_PAGE);
	report(UINT64_MAX, UINT32_MAX);
	report(POOL, 0);
	/* Nor what is readable: page numbers, or whatever. */
	put_desc(REPORTING, 0, POOL, HUGE_PAGE, VRING_DESC_F_NEXT);
	put_desc(REPORTING, 1, SIZE, PAGE, VRING_DESC_F_WRITE);
	publish(REPORTING, 0);
	kick(REPORTING);
	ck_assert_uint_eq(take_used(REPORTING), 1);
	ck_assert_uint_eq(nr_discards, 0);
	ck_assert(!is_broken());
	process_expect_no_log();
}
END_TEST

START_TEST(reporting_of_huge_pages_is_refused)
{
	const struct virtio_balloon_config config = { .reporting = true };

	make_world(RAM_MEMFD, HUGE_PAGE, RECLAIM_INHIBIT);
	unsigned int fds = process_nr_fds();
	ck_assert_int_eq(virtio_balloon_init(&balloon, &map, &reclaim, &loop, &config),
			 -EINVAL);
	ck_assert_uint_eq(process_nr_fds(), fds);
	process_expect_no_log();
	virtio_balloon_finish(&balloon);
}
END_TEST

/* Deflates that cannot be served yet */

static void take_memory_away(void)
{
	host_is_full = true;
}

static void bring_memory_back(void)
{
	host_is_full = false;
}

/* A deflate waits for a page of the granule at POOL. */
static void make_deflate_wait(void)
{
	setup_granules();
	send_run(INFLATE, POOL_PFN, 1024);
	ck_assert_uint_eq(figures().reclaimed, 2 * HUGE_PAGE);
	ck_assert_uint_eq(take_used(INFLATE), 1);
	take_memory_away();
	send_run(DEFLATE, POOL_PFN + 256, 256);
	ck_assert_uint_eq(take_used(DEFLATE), 0);
}

static void retry(void)
{
	balloon.retry_timer.ready(&balloon.retry_timer, EPOLLIN);
}

START_TEST(a_deflate_the_host_has_no_memory_for_is_not_acknowledged)
{
	make_deflate_wait();
	process_expect_log("no host memory for a deflate");
	ck_assert_uint_eq(nr_queue_interrupts[DEFLATE], 0);
	ck_assert_uint_eq(state().nr_waiting, 1);
	ck_assert_uint_eq(figures().held, 2 * HUGE_PAGE);
	ck_assert(is_set(&balloon.retry_timer));
	retry();
	ck_assert_uint_eq(take_used(DEFLATE), 0);
	ck_assert_uint_eq(state().nr_waiting, 1);
	ck_assert_uint_eq(state().nr_retries, 1);
	process_expect_no_log();
}
END_TEST

START_TEST(it_is_acknowledged_when_the_memory_is_there)
{
	make_deflate_wait();
	(void)process_log();
	bring_memory_back();
	retry();
	process_expect_log("is done");
	ck_assert_uint_eq(take_used(DEFLATE), 1);
	ck_assert_uint_eq(nr_queue_interrupts[DEFLATE], 1);
	ck_assert_uint_eq(state().nr_waiting, 0);
	ck_assert_uint_eq(state().nr_elements[DEFLATE], 1);
	ck_assert_uint_eq(figures().held, 2 * HUGE_PAGE - HUGE_PAGE / 2);
	ck_assert_uint_eq(figures().reclaimed, HUGE_PAGE);
}
END_TEST

START_TEST(it_is_tried_ever_more_rarely)
{
	static const unsigned int waits[] = { 10, 20, 40, 80, 160, 320, 640, 1000, 1000 };

	make_deflate_wait();
	for (unsigned int i = 0; i < nitems(waits); i++) {
		ck_assert_uint_eq(balloon.retry_ms, waits[i]);
		ck_assert(is_set(&balloon.retry_timer));
		retry();
	}
	bring_memory_back();
	retry();
	take_memory_away();
	send_run(DEFLATE, POOL_PFN, 1); /* of a granule that is not reclaimed any more */
	ck_assert_uint_eq(take_used(DEFLATE), 2);
	bring_memory_back();
	send_run(INFLATE, POOL_PFN, 512);
	take_memory_away();
	send_run(DEFLATE, POOL_PFN, 1);
	ck_assert_uint_eq(take_used(DEFLATE), 0);
	ck_assert_uint_eq(balloon.retry_ms, 10);
}
END_TEST

START_TEST(the_event_loop_tries_it_again)
{
	make_deflate_wait();
	while (state().nr_retries < 2)
		ck_assert(run_once(30000));
	bring_memory_back();
	while (state().nr_waiting)
		ck_assert(run_once(30000));
	ck_assert_uint_eq(take_used(DEFLATE), 1);
}
END_TEST

START_TEST(behind_it_deflates_wait_and_the_rest_goes_on)
{
	const uint32_t pfn = POOL_PFN + 512; /* of a granule that could be had */

	make_deflate_wait();
	write_pfns(BUFFER + 0x10000, &pfn, 1);
	add(DEFLATE, BUFFER + 0x10000, 4, 0);
	kick(DEFLATE);
	ck_assert_uint_eq(take_used(DEFLATE), 0);
	ck_assert_uint_eq(balloon.virtio.queues[DEFLATE].ring.next_avail, 1);
	write_pfns(BUFFER + 0x20000, &(uint32_t){ POOL_PFN + 1024 }, 1);
	add(INFLATE, BUFFER + 0x20000, 4, 0);
	kick(INFLATE);
	ck_assert_uint_eq(take_used(INFLATE), 1);
	send_stats(10);
	ck_assert_uint_eq(stats().nr_updates, 1);
	retry();
	ck_assert_uint_eq(take_used(DEFLATE), 0);
	bring_memory_back();
	retry();
	ck_assert_uint_eq(take_used(DEFLATE), 2);
	ck_assert_uint_eq(figures().held, 2 * HUGE_PAGE - HUGE_PAGE / 2);
}
END_TEST

START_TEST(a_reset_forgets_the_deflate_that_waits)
{
	make_deflate_wait();
	bring_memory_back();
	set_status(0);
	ck_assert_uint_eq(state().nr_waiting, 0);
	ck_assert_uint_eq(figures().held, 0);
	retry();
	ck_assert(!is_set(&balloon.retry_timer));
	start(UINT64_MAX);
	retry();
	ck_assert_uint_eq(take_used(DEFLATE), 0);
	ck_assert_uint_eq(state().nr_retries, 0);
	send_run(INFLATE, POOL_PFN, 512);
	send_run(DEFLATE, POOL_PFN, 512);
	ck_assert_uint_eq(take_used(DEFLATE), 1);
}
END_TEST

/* 1.2, 4.1.4.3.2: a driver waits until it reads zero. */
START_TEST(a_reset_waits_for_memory_too)
{
	make_deflate_wait();
	set_status(0);
	ck_assert_uint_eq(state().nr_waiting, 0);
	ck_assert(state().resetting);
	ck_assert(virtio_is_resetting(&balloon.virtio));
	ck_assert_uint_ne(get_status(), 0);
	ck_assert(is_set(&balloon.retry_timer));
	ck_assert_uint_ne(figures().held, 0);
	/* One that does not wait gets nowhere. */
	set_status(VIRTIO_CONFIG_S_ACKNOWLEDGE);
	set_features(1);
	kick(INFLATE);
	set_status(0);
	retry();
	ck_assert(state().resetting);
	ck_assert_uint_eq(balloon.retry_ms, 20);
	bring_memory_back();
	retry();
	ck_assert(!state().resetting);
	ck_assert_uint_eq(get_status(), 0);
	ck_assert_uint_eq(balloon.virtio.driver_features, 0);
	ck_assert_uint_eq(figures().held, 0);
	start(UINT64_MAX);
	send_run(INFLATE, POOL_PFN, 512);
	send_run(DEFLATE, POOL_PFN, 512);
	ck_assert_uint_eq(take_used(DEFLATE), 1);
}
END_TEST

START_TEST(the_event_loop_gets_a_reset_through)
{
	make_deflate_wait();
	set_status(0);
	while (state().nr_retries < 2)
		ck_assert(run_once(30000));
	bring_memory_back();
	while (state().resetting)
		ck_assert(run_once(30000));
	ck_assert_uint_eq(figures().held, 0);
}
END_TEST

/* A letter for each event that was passed on. */
static char told[16];

static void event_told(void *opaque, enum virtio_balloon_event event)
{
	size_t nr = strlen(told);

	(void)opaque;
	ck_assert_uint_lt(nr + 1, sizeof(told));
	told[nr] = event == VIRTIO_BALLOON_WAITS ? 'W' : 'S';
}

static void listen_to_events(void)
{
	memset(told, 0, sizeof(told));
	balloon.config.event = event_told;
}

START_TEST(a_wait_that_a_reset_cuts_short_is_told_to_be_over)
{
	make_deflate_wait();
	listen_to_events();
	retry();
	ck_assert_str_eq(told, "W");
	bring_memory_back();
	set_status(0);
	ck_assert(!state().resetting);
	ck_assert(run_once(30000));
	ck_assert_str_eq(told, "WS");
	/* And once only. */
	start(UINT64_MAX);
	send_run(INFLATE, POOL_PFN, 512);
	send_run(DEFLATE, POOL_PFN, 512);
	retry();
	ck_assert_str_eq(told, "WS");
}
END_TEST

START_TEST(a_wait_that_goes_on_in_a_reset_is_one_wait)
{
	make_deflate_wait();
	listen_to_events();
	ck_assert_int_eq(eventfd_create(&balloon.virtio.reset_fd), 0);
	set_status(0);
	ck_assert(state().resetting);
	retry();
	retry();
	ck_assert_str_eq(told, "W");
	ck_assert(!eventfd_pending(balloon.virtio.reset_fd));
	bring_memory_back();
	retry();
	ck_assert_str_eq(told, "WS");
	ck_assert(eventfd_pending(balloon.virtio.reset_fd));
	fd_close(&balloon.virtio.reset_fd);
}
END_TEST

START_TEST(waits_that_follow_each_other_before_anybody_hears_are_one)
{
	make_deflate_wait();
	listen_to_events();
	retry();
	bring_memory_back();
	balloon.deflate_waits = false; /* as the timer does, but nobody is told yet */
	kick(DEFLATE);
	ck_assert_uint_eq(take_used(DEFLATE), 1);
	take_memory_away();
	send_run(DEFLATE, POOL_PFN + 512, 1);
	ck_assert_uint_eq(state().nr_waiting, 1);
	retry();
	ck_assert_str_eq(told, "W");
	bring_memory_back();
	retry();
	ck_assert_str_eq(told, "WS");
}
END_TEST

START_TEST(a_driver_that_goes_on_lacking_memory_fills_no_log)
{
	setup_granules();
	for (unsigned int i = 0; i < 100; i++) {
		send_run(INFLATE, POOL_PFN, 512);
		take_memory_away();
		send_run(DEFLATE, POOL_PFN, 1);
		set_status(0);
		ck_assert(state().resetting);
		bring_memory_back();
		retry();
		start(UINT64_MAX);
	}
	unsigned int nr_lines = 0;
	for (const char *at = process_log(); (at = strchr(at, '\n')); at++)
		nr_lines++;
	ck_assert_uint_le(nr_lines, LOG_GUEST_BURST + 1);
}
END_TEST

START_TEST(at_the_end_nothing_is_made_present)
{
	setup_granules();
	send_run(INFLATE, POOL_PFN, 512);
	ck_assert_uint_eq(figures().reclaimed, HUGE_PAGE);
	unsigned int before = nr_populates;
	virtio_balloon_finish(&balloon);
	ck_assert_uint_eq(nr_populates, before);
	ck_assert_uint_eq(figures().held, 0);
}
END_TEST

START_TEST(in_a_broken_device_it_is_not_tried_again)
{
	make_deflate_wait();
	add(INFLATE, BUFFER, UINT32_MAX, 0);
	kick(INFLATE);
	ck_assert(is_broken());
	bring_memory_back();
	retry();
	ck_assert_uint_eq(take_used(DEFLATE), 0);
	ck_assert_uint_eq(state().nr_retries, 0);
}
END_TEST

/* The driver may still write where the numbers stand. */
START_TEST(an_element_that_turns_bad_while_it_waits_harms_only_the_guest)
{
	make_deflate_wait();
	*(uint32_t *)at(BUFFER, 4) = 0xffffffff;
	retry();
	ck_assert_uint_eq(state().nr_waiting, 1);
	memset(at(BUFFER, 1024), 0xff, 1024);
	retry();
	ck_assert_uint_eq(state().nr_waiting, 0);
	ck_assert_uint_eq(take_used(DEFLATE), 1);
	ck_assert_uint_eq(figures().held, 2 * HUGE_PAGE);
	bring_memory_back();
}
END_TEST

START_TEST(a_queue_placed_anew_while_a_deflate_waits_gets_it_back)
{
	make_deflate_wait();
	virtq_init(&balloon.virtio.queues[DEFLATE].ring, &map, QUEUE_SIZE);
	place_queue(DEFLATE, 0x80000);
	bring_memory_back();
	retry();
	ck_assert_uint_eq(state().nr_waiting, 0);
	ck_assert(!is_broken());
}
END_TEST

/* Resets */

START_TEST(a_reset_gives_everything_back_and_the_target_stays)
{
	setup();
	balloon.ram_size = 1ull << 30;
	ck_assert_int_eq(virtio_balloon_set_target(&balloon, 256 << 20), 0);
	send_run(INFLATE, POOL_PFN, 256);
	send_stats(10);
	config_set(4, 4, 256);
	config_set(12, 4, 0xaaaaaaaa);
	set_status(0);
	ck_assert_uint_eq(figures().held, 0);
	ck_assert_uint_eq(figures().reclaimed, 0);
	ck_assert(!state().running);
	ck_assert_uint_eq(state().actual, 0);
	ck_assert_uint_eq(state().target, 256 << 20);
	ck_assert_uint_eq(config_get(0, 4), 65536);
	ck_assert_uint_eq(config_get(4, 4), 0);
	ck_assert_uint_eq(config_get(12, 4), 0);
	ck_assert_uint_eq(nr_reported(), 0);
	start(UINT64_MAX);
	ck_assert_int_eq(virtio_balloon_request_stats(&balloon), -EAGAIN);
	ck_assert_uint_eq(take_used(STATS), 0);
}
END_TEST

START_TEST(the_guests_reset_is_one_too)
{
	setup();
	inhibitor_raise(&reclaim, &inhibitor, "a test");
	send_run(INFLATE, POOL_PFN, 4);
	virtio_reset(&balloon.virtio);
	ck_assert_uint_eq(figures().held, 0);
	fill(POOL, 4 * PAGE);
	inhibitor_lower(&reclaim, &inhibitor);
	ck_assert(is(POOL, 4 * PAGE, 0xaa));
}
END_TEST

START_TEST(a_reset_between_kick_and_service_serves_nothing)
{
	const uint32_t pfn = POOL_PFN;

	setup();
	write_pfns(BUFFER, &pfn, 1);
	for (unsigned int i = 0; i < balloon.virtio.nr_queues; i++) {
		add(i, BUFFER, 4, 0);
		eventfd_signal(balloon.virtio.queues[i].kicked.fd);
	}
	set_status(0);
	while (run_once(0))
		continue;
	ck_assert_uint_eq(figures().held, 0);
	for (unsigned int i = 0; i < balloon.virtio.nr_queues; i++)
		ck_assert_uint_eq(take_used(i), 0);
}
END_TEST

START_TEST(what_waits_in_the_queues_at_driver_ok_is_served)
{
	const uint32_t pfn = POOL_PFN;

	make_world(RAM_ANONYMOUS, PAGE, RECLAIM_INHIBIT);
	init((struct virtio_balloon_config){ 0 });
	negotiate(UINT64_MAX);
	write_pfns(BUFFER, &pfn, 1);
	add(INFLATE, BUFFER, 4, 0);
	kick(INFLATE);
	ck_assert_uint_eq(figures().held, 0);
	driver_ok();
	ck_assert_uint_eq(take_used(INFLATE), 1);
	ck_assert_uint_eq(figures().held, PAGE);
}
END_TEST

/* The host's side */

static unsigned int nr_changes;

static void count_change(void *opaque)
{
	ck_assert_ptr_eq(opaque, &balloon);
	nr_changes++;
}

START_TEST(who_wants_to_know_is_told_when_actual_changes_and_only_then)
{
	setup();
	balloon.config.changed = count_change;
	balloon.config.opaque = &balloon;
	config_set(4, 4, 5);
	ck_assert_uint_eq(nr_changes, 1);
	config_set(4, 4, 5);
	config_set(0, 4, 77); /* not actual */
	ck_assert_uint_eq(nr_changes, 1);
	config_set(4, 4, 6);
	ck_assert_uint_eq(nr_changes, 2);
	set_status(0);
	ck_assert_uint_eq(nr_changes, 3);
	ck_assert_uint_eq(state().actual, 0);
	virtio_balloon_set_stats_period(&balloon, 7);
	ck_assert_uint_eq(virtio_balloon_get_stats_period(&balloon), 7);
}
END_TEST

START_TEST(actual_is_told_as_no_more_than_there_is)
{
	setup();
	config_set(4, 4, 0xffffffff);
	ck_assert_uint_eq(config_get(4, 4), 0xffffffff);
	ck_assert_uint_eq(state().actual, 2 * SIZE);
	config_set(4, 4, 7);
	ck_assert_uint_eq(state().actual, 7 * PAGE);
}
END_TEST

static void expect_target(uint64_t ram_size, uint64_t bytes, int result)
{
	balloon.ram_size = ram_size;
	ck_assert_int_eq(virtio_balloon_set_target(&balloon, bytes), result);
	if (result == 0) {
		ck_assert_uint_eq(state().target, align_down(bytes, PAGE));
		ck_assert_uint_eq(config_get(0, 4), bytes / PAGE);
	}
}

START_TEST(the_guest_keeps_at_least_the_floor)
{
	const uint64_t floor = VIRTIO_BALLOON_FLOOR;
	const uint64_t gib = 1ull << 30;

	setup();
	expect_target(gib, gib - floor, 0);
	expect_target(gib, gib - floor + PAGE - 1, 0);
	expect_target(gib, gib - floor + PAGE, -ERANGE);
	expect_target(gib, gib, -ERANGE);
	expect_target(gib, UINT64_MAX, -ERANGE);
	ck_assert_uint_eq(state().target, gib - floor);
	expect_target(floor, 0, 0);
	expect_target(floor, PAGE, -ERANGE);
	expect_target(SIZE, 0, 0);
	expect_target(SIZE, PAGE, -ERANGE);
	expect_target(floor + PAGE, PAGE, 0);
}
END_TEST

START_TEST(a_target_of_almost_16_tib_fits)
{
	const uint64_t all = 16ull << 40;

	setup();
	expect_target(all, all - VIRTIO_BALLOON_FLOOR, 0);
	expect_target(all, all, -ERANGE);
}
END_TEST

START_TEST(a_new_target_interrupts_a_driver_that_is_there)
{
	make_world(RAM_ANONYMOUS, PAGE, RECLAIM_INHIBIT);
	init((struct virtio_balloon_config){ 0 });
	expect_target(1ull << 30, 0x1000000, 0);
	ck_assert_uint_eq(nr_config_interrupts, 0);
	start(UINT64_MAX);
	ck_assert_uint_eq(config_get(0, 4), 0x1000);
	expect_target(1ull << 30, 0x2000000, 0);
	ck_assert_uint_eq(nr_config_interrupts, 1);
	expect_target(1ull << 30, UINT64_MAX, -ERANGE);
	ck_assert_uint_eq(nr_config_interrupts, 1);
}
END_TEST

START_TEST(the_state_tells_what_was_negotiated_and_served)
{
	setup_all((struct virtio_balloon_config){ .reporting = true });
	ck_assert(state().running);
	ck_assert(state().tells_host);
	send_run(INFLATE, POOL_PFN, 4);
	send_run(INFLATE, POOL_PFN + 4, 4);
	send_run(DEFLATE, POOL_PFN, 4);
	send_stats(10);
	report(POOL, HUGE_PAGE);
	ck_assert_uint_eq(state().nr_elements[INFLATE], 2);
	ck_assert_uint_eq(state().nr_elements[DEFLATE], 1);
	ck_assert_uint_eq(state().nr_elements[STATS], 1);
	ck_assert_uint_eq(state().nr_elements[REPORTING], 1);
	ck_assert_uint_eq(state().nr_waiting, 0);
}
END_TEST

/* Beginning and end */

/* Each step takes one: the queues' kicks, the two timers. */
START_TEST(init_leaves_no_fd_whatever_step_fails)
{
	const struct virtio_balloon_config config = { .reporting = true };
	unsigned int nr_failures = 0;
	struct rlimit saved;

	make_world(RAM_ANONYMOUS, PAGE, RECLAIM_INHIBIT);
	ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &saved), 0);
	int lowest_free = dup(STDERR_FILENO);
	close(lowest_free);
	unsigned int fds = process_nr_fds();
	for (;; nr_failures++) {
		const struct rlimit limit = { (rlim_t)lowest_free + nr_failures,
					      saved.rlim_max };
		ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
		int r = virtio_balloon_init(&balloon, &map, &reclaim, &loop, &config);
		ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &saved), 0);
		if (r == 0)
			break;
		ck_assert_int_eq(r, -EMFILE);
		ck_assert_uint_eq(process_nr_fds(), fds);
		process_expect_no_log();
	}
	ck_assert_uint_ge(nr_failures, 6);
	ck_assert_uint_eq(process_nr_fds(), fds + 7);
	virtio_balloon_finish(&balloon);
	ck_assert_uint_eq(process_nr_fds(), fds);
}
END_TEST

START_TEST(without_memory_init_leaves_nothing)
{
	const struct virtio_balloon_config config = { 0 };

	make_world(RAM_ANONYMOUS, PAGE, RECLAIM_INHIBIT);
	unsigned int fds = process_nr_fds();
	malloc_fails = true;
	int r = virtio_balloon_init(&balloon, &map, &reclaim, &loop, &config);
	malloc_fails = false;
	ck_assert_int_eq(r, -ENOMEM);
	ck_assert_uint_eq(process_nr_fds(), fds);
	process_expect_no_log();
}
END_TEST

START_TEST(a_loop_that_takes_nothing_fails_init)
{
	const struct virtio_balloon_config config = { 0 };

	make_world(RAM_ANONYMOUS, PAGE, RECLAIM_INHIBIT);
	event_loop_finish(&loop);
	unsigned int fds = process_nr_fds();
	ck_assert_int_eq(virtio_balloon_init(&balloon, &map, &reclaim, &loop, &config), -EBADF);
	ck_assert_uint_eq(process_nr_fds(), fds);
}
END_TEST

START_TEST(finishing_gives_everything_back_and_may_be_done_twice)
{
	setup();
	send_run(INFLATE, POOL_PFN, 4);
	send_stats(10);
	virtio_balloon_finish(&balloon);
	ck_assert_uint_eq(figures().held, 0);
	virtio_balloon_finish(&balloon);
	event_loop_finish(&loop);
	ck_assert_uint_eq(process_nr_fds(), fds_before);
	ck_assert(!run_once(0));
}
END_TEST

START_TEST(it_works_on_no_event_loop_too)
{
	const struct virtio_balloon_config config = { .stats_period = 1 };

	make_world(RAM_ANONYMOUS, PAGE, RECLAIM_INHIBIT);
	ck_assert_int_eq(virtio_balloon_init(&balloon, &map, &reclaim, NULL, &config), 0);
	start(UINT64_MAX);
	send_run(INFLATE, POOL_PFN, 4);
	ck_assert_uint_eq(take_used(INFLATE), 1);
	virtio_balloon_finish(&balloon);
}
END_TEST

/* A driver that is reset over and over while the host asks and others pin; TSan looks on. */

static bool stop;

static void *be_the_host(void *opaque)
{
	(void)opaque;
	for (unsigned int i = 0; !__atomic_load_n(&stop, __ATOMIC_SEQ_CST); i++) {
		if (virtio_balloon_set_target(&balloon, 0) < 0)
			return &stop;
		int r = virtio_balloon_request_stats(&balloon);
		if (r < 0 && r != -EAGAIN && r != -ENOTCONN)
			return &stop;
		virtio_balloon_set_stats_period(&balloon, i % 2);
		if (figures().held > 2 * SIZE || state().actual > 2 * SIZE)
			return &stop;
		inhibitor_raise(&reclaim, &inhibitor, "a test");
		inhibitor_lower(&reclaim, &inhibitor);
	}
	return NULL;
}

static void *be_the_loop(void *opaque)
{
	(void)opaque;
	while (!__atomic_load_n(&stop, __ATOMIC_SEQ_CST))
		(void)run_once(1);
	return NULL;
}

START_TEST(resets_come_at_any_moment)
{
	pthread_t host, looper;
	void *wrong = NULL;

	setup();
	log_set_level(LOG_ERROR);
	trace_listen(NULL);
	ck_assert_int_eq(pthread_create(&host, NULL, be_the_host, NULL), 0);
	ck_assert_int_eq(pthread_create(&looper, NULL, be_the_loop, NULL), 0);
	for (unsigned int i = 0; i < 200; i++) {
		send_run(INFLATE, POOL_PFN, 1024);
		send_stats(10);
		send_run(DEFLATE, POOL_PFN, i + 1);
		config_set(4, 4, i);
		set_status(0);
		ck_assert_uint_eq(figures().held, 0);
		start(UINT64_MAX);
	}
	__atomic_store_n(&stop, true, __ATOMIC_SEQ_CST);
	pthread_join(looper, NULL);
	pthread_join(host, &wrong);
	ck_assert_ptr_null(wrong);
	virtio_balloon_finish(&balloon);
}
END_TEST

static unsigned int nr_hugepages(void)
{
	unsigned int n = 0;

	FILE *f = fopen(NR_HUGEPAGES, "re");
	if (f) {
		if (fscanf(f, "%u", &n) != 1)
			n = 0;
		fclose(f);
	}
	return n;
}

static void set_nr_hugepages(unsigned int n)
{
	FILE *f = fopen(NR_HUGEPAGES, "we");

	if (f) {
		(void)fprintf(f, "%u", n);
		(void)fclose(f); /* only root may; what there is is looked at afterwards */
	}
}

int main(void)
{
	const TTest *const tests[] = {
		what_was_asked_for_is_offered,
		without_statistics_reporting_is_queue_2,
		a_driver_may_leave_a_gap_for_the_statistics_it_did_not_take,
		reporting_is_queue_3_and_without_it_there_are_three,
		a_queue_of_a_feature_not_taken_is_not_served,
		only_actual_is_the_drivers_to_write,
		poison_is_the_drivers_to_write_if_it_poisons,
		config_space_takes_bytes_and_words,
		contiguous_pages_in_any_order_are_one_discard,
		a_part_of_a_huge_page_is_discarded_within_a_second,
		each_run_is_one_discard_and_gaps_stay,
		a_page_named_twice_counts_once,
		memfd_pages_are_discarded_too,
		an_inhibited_page_is_held_and_the_guest_sees_success,
		what_was_deflated_before_the_inhibitor_went_is_not_discarded,
		of_a_driver_that_may_not_tell_nothing_is_discarded_later,
		unsafe_discards_under_the_pin,
		a_granule_is_completed_across_elements,
		a_hugetlb_page_is_completed_across_elements,
		a_granule_half_held_is_forgotten_by_a_reset,
		deflating_what_was_never_inflated_does_nothing,
		a_page_that_is_no_ram_is_skipped,
		what_is_ram_beside_it_is_taken,
		the_highest_page_numbers_are_no_negative_ones,
		a_guest_that_goes_on_lying_fills_no_log,
		an_element_outside_of_ram_is_handed_back_undone,
		a_length_that_lies_does_nothing,
		the_largest_element_is_served,
		a_larger_element_breaks_the_device_until_it_is_reset,
		an_element_with_half_a_number_at_its_end_loses_that,
		a_number_may_lie_across_two_buffers,
		what_is_writable_is_not_read_and_not_written,
		a_queue_with_more_chains_than_entries_breaks,
		a_used_ring_outside_of_ram_breaks,
		queues_may_be_placed_anew_while_running,
		rings_outside_of_ram_break_and_a_reset_mends,
		a_driver_that_never_ends_gets_one_queueful_a_kick,
		a_kick_of_many_pages_ends_before_the_queue_does,
		at_first_there_are_no_statistics,
		the_first_buffer_holds_statistics_and_stays_with_the_device,
		statistics_may_have_any_size,
		unknown_tags_are_ignored_and_the_order_is_free,
		what_is_not_reported_again_is_gone,
		statistics_outside_of_ram_are_none,
		asking_hands_the_buffer_back_and_the_answer_counts,
		without_a_driver_or_its_statistics_there_is_nobody_to_ask,
		a_second_buffer_returns_the_first,
		with_a_period_the_driver_is_asked_at_once_and_again,
		the_period_may_be_changed_and_ended,
		a_period_waits_for_a_driver,
		a_timer_that_ran_out_before_a_reset_asks_nobody,
		each_statistic_has_a_name_of_its_own,
		reported_pages_are_discarded_and_not_held,
		one_element_reports_only_so_much,
		poisoned_pages_are_left_alone,
		a_report_while_an_inhibitor_is_raised_does_nothing,
		a_report_of_what_is_no_ram_is_ignored_in_silence,
		reporting_of_huge_pages_is_refused,
		a_deflate_the_host_has_no_memory_for_is_not_acknowledged,
		it_is_acknowledged_when_the_memory_is_there,
		it_is_tried_ever_more_rarely,
		the_event_loop_tries_it_again,
		behind_it_deflates_wait_and_the_rest_goes_on,
		a_reset_forgets_the_deflate_that_waits,
		a_reset_waits_for_memory_too,
		the_event_loop_gets_a_reset_through,
		a_wait_that_a_reset_cuts_short_is_told_to_be_over,
		a_wait_that_goes_on_in_a_reset_is_one_wait,
		waits_that_follow_each_other_before_anybody_hears_are_one,
		a_driver_that_goes_on_lacking_memory_fills_no_log,
		at_the_end_nothing_is_made_present,
		in_a_broken_device_it_is_not_tried_again,
		an_element_that_turns_bad_while_it_waits_harms_only_the_guest,
		a_queue_placed_anew_while_a_deflate_waits_gets_it_back,
		a_reset_gives_everything_back_and_the_target_stays,
		the_guests_reset_is_one_too,
		a_reset_between_kick_and_service_serves_nothing,
		what_waits_in_the_queues_at_driver_ok_is_served,
		who_wants_to_know_is_told_when_actual_changes_and_only_then,
		actual_is_told_as_no_more_than_there_is,
		the_guest_keeps_at_least_the_floor,
		a_target_of_almost_16_tib_fits,
		a_new_target_interrupts_a_driver_that_is_there,
		the_state_tells_what_was_negotiated_and_served,
		init_leaves_no_fd_whatever_step_fails,
		without_memory_init_leaves_nothing,
		a_loop_that_takes_nothing_fails_init,
		finishing_gives_everything_back_and_may_be_done_twice,
		it_works_on_no_event_loop_too,
		resets_come_at_any_moment,
	};

	unsigned int before = nr_hugepages();
	unsigned int wanted = before + 2 * SIZE / HUGE_PAGE;

	set_nr_hugepages(wanted);
	has_hugetlb = nr_hugepages() >= wanted;
	if (!has_hugetlb)
		printf("hugetlb is skipped: %u huge pages cannot be reserved in " NR_HUGEPAGES
		       "\n",
		       (unsigned int)(2 * SIZE / HUGE_PAGE));
	int status = run_tests("devices_virtio_balloon", NULL, NULL, tests, nitems(tests));
	if (nr_hugepages() != before)
		set_nr_hugepages(before);
	return status;
}
