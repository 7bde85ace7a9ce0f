/* SPDX-License-Identifier: MIT */
#include "devices/virtio_balloon.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>

#include <linux/virtio_ids.h>

#include "base/fd.h"
#include "base/list.h"
#include "base/trace.h"

#include "memory/map.h"
#include "memory/ram.h"

/* 1.2, 5.5.3. <linux/virtio_balloon.h> has them too, and a struct by the name of ours. */
#define F_MUST_TELL_HOST 0u
#define F_STATS_VQ 1u
#define F_DEFLATE_ON_OOM 2u
#define F_PAGE_POISON 4u
#define F_REPORTING 5u

#define QUEUE_INFLATE 0u
#define QUEUE_DEFLATE 1u
#define QUEUE_STATS 2u
#define QUEUE_REPORTING 3u /* since STATS_VQ is always offered; but see number_queues() */
#define QUEUE_SIZE 128u

/* Config space, 1.2, 5.5.4: four words. */
#define CONFIG_NUM_PAGES 0u
#define CONFIG_ACTUAL 1u
#define CONFIG_HINT_CMD_ID 2u
#define CONFIG_POISON_VAL 3u
#define CONFIG_WORDS 4u

#define PFN_SHIFT 12u
#define MAX_RAM_SIZE (1ull << 44) /* page numbers have 32 bits, and so has num_pages */

/* 1.2, 5.5.6.3: packed records of a tag and a value. */
#define STAT_SIZE 10u
#define STATS_MAX_RECORDS 256u /* that are looked at in one buffer; there are 16 tags */

#define RETRY_FIRST_MS 10u
#define RETRY_MAX_MS 1000u

/*
 * Pages that one kick deals with, an element more or less: a driver that names every second
 * page of a large guest would otherwise keep the event loop for seconds.
 */
#define KICK_MAX_PAGES 65536u

/*
 * How long an element is served before others have their turn, and how much of a reset is done
 * at once; in between is looked at the clock.
 */
#define SLICE_MS 50
#define RESET_STEP (64ull << 20)
#define DEFLATE_RUN_PAGES 1024u

/* A granule rests for one to two of these; a part of a huge page waits for one. */
#define REST_SECONDS 1

#define AT_ONCE 1ull /* of a timer, in ns */

static struct virtio_balloon *balloon_of(struct virtio *virtio)
{
	return container_of(virtio, struct virtio_balloon, virtio);
}

/* Hands an element back. We never write into one. */
static void finish_element(struct virtio_balloon *b, unsigned int index, uint16_t head)
{
	if (virtq_push(&b->virtio.queues[index].ring, head, 0) < 0) {
		virtio_break(&b->virtio, "a used ring that cannot be written");
		return;
	}
	virtio_notify(&b->virtio, index);
}

/* Inflate and deflate */

static int compare_pfns(const void *a, const void *b)
{
	const uint32_t *left = a;
	const uint32_t *right = b;
	return (*left > *right) - (*left < *right);
}

/*
 * Copies an element's page numbers out and sorts them. How many, which is 0 if they lie outside
 * of RAM. -EPROTO: too many, and the device is broken now.
 */
static int read_pfns(struct virtio_balloon *b, unsigned int index,
		     const struct virtq_chain *chain)
{
	uint64_t nr = virtq_readable_size(chain) / sizeof(b->pfns[0]);

	if (nr > VIRTIO_BALLOON_MAX_PFNS) {
		virtio_break(&b->virtio, "too many page numbers in one element");
		return -EPROTO;
	}
	int r = virtq_read(&b->virtio.queues[index].ring, chain, 0, b->pfns,
			   nr * sizeof(b->pfns[0]));
	if (r < 0) {
		log_guest(
			&b->virtio.budget,
			"balloon: queue %u: page numbers outside of RAM, ignoring the element",
			index);
		return 0;
	}
	for (uint64_t i = 0; i < nr; i++)
		b->pfns[i] = le32toh(b->pfns[i]);
	qsort(b->pfns, nr, sizeof(b->pfns[0]), compare_pfns);
	return (int)nr;
}

/* The next run among sorted page numbers, from *i on; repeated ones count once. */
static uint64_t next_run(const uint32_t *pfns, unsigned int nr, uint64_t max_pages,
			 unsigned int *i, gpa_t *ret_gpa)
{
	uint64_t first = pfns[*i];
	uint64_t last = first;

	while (++*i < nr && pfns[*i] - last <= 1 && pfns[*i] - first < max_pages)
		last = pfns[*i];
	*ret_gpa = first << PFN_SHIFT;
	return (last - first + 1) << PFN_SHIFT;
}

/* To a tick of the kernel's, a few milliseconds: that costs nothing. */
static int64_t now_ms(void)
{
	struct timespec now = { 0 };

	(void)clock_gettime(CLOCK_MONOTONIC_COARSE, &now); /* this clock always exists */
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/*
 * Has reclaim take, or give back, the pages of the element at work, from where it was left. Its
 * page numbers are read again: a driver that changes them meanwhile harms itself. 1: it is
 * through. 0: for now. -ENOMEM: not now; try again. -EPROTO: broken.
 */
static int serve_pages(struct virtio_balloon *b, unsigned int index)
{
	struct virtio_balloon_element *element = &b->elements[index];
	bool inflates = index == QUEUE_INFLATE;
	unsigned int start = element->nr_done;

	int nr = read_pfns(b, index, &element->chain);
	if (nr < 0)
		return nr;
	for (unsigned int i = start; i < (unsigned int)nr; element->nr_done = i) {
		gpa_t gpa;
		if (i > start && now_ms() >= b->slice_end)
			return 0;
		uint64_t size = next_run(b->pfns, (unsigned int)nr,
					 inflates ? UINT64_MAX : DEFLATE_RUN_PAGES, &i, &gpa);
		int r = inflates ? reclaim_take(b->reclaim, gpa, size)
				 : reclaim_give_back(b->reclaim, gpa, size);
		if (r == -ENOMEM)
			return r;
		if (r < 0)
			log_guest(&b->virtio.budget,
				  "balloon: queue %u: not all RAM: 0x%" PRIx64 "+0x%" PRIx64
				  ", skipping what is not",
				  index, gpa, size);
	}
	return 1;
}

static void tell_event(struct virtio_balloon *b, enum virtio_balloon_event event)
{
	b->events |= 1u << event;
}

/*
 * From here on there is waiting, until it is said that there is not. A SERVED that has not been
 * passed on yet would come after this, and be wrong: then it was one wait.
 */
static void begin_waiting(struct virtio_balloon *b, const char *what)
{
	if (b->waits)
		return;
	b->waits = true;
	log_guest(&b->virtio.budget,
		  "balloon: no host memory for a %s: trying again until there is", what);
	if (b->events & 1u << VIRTIO_BALLOON_SERVED)
		b->events &= ~(1u << VIRTIO_BALLOON_SERVED);
	else
		tell_event(b, VIRTIO_BALLOON_WAITS);
}

/* First after RETRY_FIRST_MS, then after twice as long as the last time. */
static void wait_for_memory(struct virtio_balloon *b, const char *what)
{
	unsigned int ms = b->retry_ms ? b->retry_ms * 2 : RETRY_FIRST_MS;

	begin_waiting(b, what);
	b->retry_ms = ms < RETRY_MAX_MS ? ms : RETRY_MAX_MS;
	event_timer_set(&b->retry_timer, b->retry_ms * (EVENT_SECOND / 1000), 0);
}

/* Whatever it was that waited at first: a deflate may have been overtaken by a reset. */
static void waited_for_memory(struct virtio_balloon *b, const char *what)
{
	b->retry_ms = 0;
	if (!b->waits)
		return;
	b->waits = false;
	/* Where the event is passed on. */
	event_timer_set(&b->retry_timer, AT_ONCE, 0);
	log_guest(&b->virtio.budget, "balloon: the %s that waited for host memory is done",
		  what);
	tell_event(b, VIRTIO_BALLOON_SERVED);
}

/* Granules may be at rest now, and parts of huge pages wait: look again after a while. */
static void start_rest(struct virtio_balloon *b)
{
	if (b->rests)
		return;
	b->rests = true;
	event_timer_set(&b->rest_timer, REST_SECONDS * EVENT_SECOND, 0);
}

/* Others have let go of memory. Takes no lock: a timer that was set already is set anew. */
static void tick_due(void *opaque)
{
	struct virtio_balloon *b = opaque;

	event_timer_set(&b->rest_timer, REST_SECONDS * EVENT_SECOND, 0);
}

/* How many pages were named, or so many that others have their turn. */
static unsigned int serve_element_of_pages(struct virtio_balloon *b, unsigned int index)
{
	struct virtio_balloon_element *element = &b->elements[index];

	int r = serve_pages(b, index);
	start_rest(b);
	if (r == 0)
		return KICK_MAX_PAGES;
	if (r == -ENOMEM) {
		/* Acknowledged now, the guest would use pages that the host does not have. */
		b->deflate_waits = true;
		wait_for_memory(b, "deflate");
		return 0;
	}
	element->at_work = false;
	if (r < 0)
		return 0;
	if (index == QUEUE_DEFLATE)
		waited_for_memory(b, "deflate");
	b->nr_elements[index]++;
	finish_element(b, index, element->chain.head);
	return element->nr_done;
}

/* Statistics */

static void forget_stats(struct virtio_balloon *b)
{
	for (unsigned int tag = 0; tag < VIRTIO_BALLOON_NR_STATS; tag++)
		b->stats.values[tag] = VIRTIO_BALLOON_NO_STAT;
	b->stats.updated = 0;
}

static void parse_stats(struct virtio_balloon *b)
{
	uint8_t records[STATS_MAX_RECORDS * STAT_SIZE];
	uint64_t nr = virtq_readable_size(&b->chain) / STAT_SIZE;

	if (nr > STATS_MAX_RECORDS)
		nr = STATS_MAX_RECORDS;
	int r = virtq_read(&b->virtio.queues[QUEUE_STATS].ring, &b->chain, 0, records,
			   nr * STAT_SIZE);
	if (r < 0) {
		log_guest(&b->virtio.budget,
			  "balloon: statistics outside of RAM, ignoring them");
		return;
	}
	for (const uint8_t *at = records; at < records + nr * STAT_SIZE; at += STAT_SIZE) {
		uint16_t tag;
		uint64_t value;
		memcpy(&tag, at, sizeof(tag));
		memcpy(&value, at + sizeof(tag), sizeof(value));
		if (le16toh(tag) < VIRTIO_BALLOON_NR_STATS)
			b->stats.values[le16toh(tag)] = le64toh(value);
	}
}

/* Back to the driver, which fills it and gives it to us again. */
static void return_stats_buffer(struct virtio_balloon *b)
{
	b->has_stats_buffer = false;
	finish_element(b, QUEUE_STATS, b->stats_head);
}

/* What the driver puts into its very first buffer, before anyone has asked, is good too. */
static unsigned int serve_stats(struct virtio_balloon *b)
{
	if (b->has_stats_buffer)
		return_stats_buffer(b);
	b->has_stats_buffer = true;
	b->stats_head = b->chain.head;
	forget_stats(b);
	parse_stats(b);
	b->stats.updated = time(NULL);
	b->stats.arrived = now_seconds();
	b->stats.nr_updates++;
	b->nr_elements[QUEUE_STATS]++;
	return 0;
}

static bool has_stats_driver(const struct virtio_balloon *b)
{
	return virtio_running(&b->virtio) && virtio_has_feature(&b->virtio, F_STATS_VQ);
}

/* From now on; the first time at once. */
static void start_asking(struct virtio_balloon *b)
{
	unsigned int period = b->config.stats_period;

	event_timer_set(&b->timer, period ? AT_ONCE : 0, period * EVENT_SECOND);
}

/* Reporting */

static void report(struct virtio_balloon *b, const struct virtq_segment *segment)
{
	/* 1.2, 5.5.6.7.2: the pages hold the poison and must keep it; a new page is zeros. */
	if (b->poison_val != 0)
		return;
	if (reclaim_report(b->reclaim, segment->gpa, segment->size) < 0) {
		/* The driver is not to know, and nothing was promised: the figures tell. */
	}
}

static unsigned int serve_reporting(struct virtio_balloon *b)
{
	const struct virtq_chain *chain = &b->chain;
	const struct virtq_segment *segments = chain->segments + chain->nr_readable;
	uint64_t nr_pages = 0;

	for (unsigned int i = 0; i < chain->nr_writable; i++) {
		nr_pages += 1 + (segments[i].size >> PFN_SHIFT);
		if (nr_pages <= KICK_MAX_PAGES) /* nothing was promised of the rest */
			report(b, &segments[i]);
	}
	b->nr_elements[QUEUE_REPORTING]++;
	finish_element(b, b->nr_reporting, chain->head);
	return nr_pages < KICK_MAX_PAGES ? (unsigned int)nr_pages : KICK_MAX_PAGES;
}

/* All queues */

/*
 * What the queue is for, by the number it has if the driver takes all that is offered;
 * VIRTIO_MAX_QUEUES: nothing.
 */
static unsigned int role_of(const struct virtio_balloon *b, unsigned int index)
{
	if (index == b->nr_reporting)
		return QUEUE_REPORTING;
	return index == QUEUE_REPORTING ? VIRTIO_MAX_QUEUES : index;
}

static bool can_serve(const struct virtio_balloon *b, unsigned int role)
{
	if (!virtio_running(&b->virtio))
		return false;
	switch (role) {
	case QUEUE_INFLATE: return true;
	case QUEUE_DEFLATE: return !b->deflate_waits;
	case QUEUE_STATS: return virtio_has_feature(&b->virtio, F_STATS_VQ);
	case QUEUE_REPORTING: return virtio_has_feature(&b->virtio, F_REPORTING);
	default: return false;
	}
}

/* How many pages were named. */
static unsigned int serve_element(struct virtio_balloon *b, unsigned int role)
{
	switch (role) {
	case QUEUE_STATS: return serve_stats(b);
	case QUEUE_REPORTING: return serve_reporting(b);
	default: return serve_element_of_pages(b, role);
	}
}

/* The next element, or the one that is at work. False: there is none. */
static bool next_element(struct virtio_balloon *b, unsigned int role, struct virtq *ring)
{
	struct virtio_balloon_element *element =
		role < nitems(b->elements) ? &b->elements[role] : NULL;

	if (element && element->at_work)
		return true;
	int r = virtq_pop(ring, element ? &element->chain : &b->chain);
	if (r < 0)
		virtio_break(&b->virtio, "a malformed queue");
	if (r <= 0)
		return false;
	if (element) {
		element->at_work = true;
		element->nr_done = 0;
	}
	return true;
}

static void balloon_kick(struct virtio *virtio, unsigned int index)
{
	struct virtio_balloon *b = balloon_of(virtio);
	struct virtio_queue *queue = &virtio->queues[index];
	unsigned int role = role_of(b, index);
	unsigned int nr_pages = 0;

	TRACE(balloon_kick, index, 0);
	b->slice_end = now_ms() + SLICE_MS;
	for (unsigned int n = 0; can_serve(b, role); n++) {
		/* There may be more, but others wait for the event loop too. */
		if (n == QUEUE_SIZE || nr_pages >= KICK_MAX_PAGES ||
		    (n > 0 && now_ms() >= b->slice_end)) {
			eventfd_signal(queue->kicked.fd);
			return;
		}
		if (!next_element(b, role, &queue->ring))
			return;
		nr_pages += serve_element(b, role);
	}
}

/*
 * A driver may count the queues of those features that it took (Linux does) or of those that
 * were offered. The two differ for one that takes REPORTING but not STATS_VQ; which way it
 * counts shows in the queue that it has enabled.
 */
static void number_queues(struct virtio_balloon *b)
{
	bool moved = virtio_has_feature(&b->virtio, F_REPORTING) &&
		     !virtio_has_feature(&b->virtio, F_STATS_VQ) &&
		     b->virtio.queues[QUEUE_STATS].ring.enabled;

	b->nr_reporting = moved ? QUEUE_STATS : QUEUE_REPORTING;
}

static void set_actual(struct virtio_balloon *b, uint32_t actual)
{
	bool changes = actual != b->actual;

	b->actual = actual;
	if (changes && b->config.changed)
		b->config.changed(b->config.opaque);
}

static void balloon_start(struct virtio *virtio)
{
	struct virtio_balloon *b = balloon_of(virtio);

	number_queues(b);
	b->deflate_waits = false; /* of a driver that took DRIVER_OK back in between */
	reclaim_set_driver(b->reclaim, virtio_has_feature(virtio, F_MUST_TELL_HOST)
					       ? RECLAIM_DRIVER_TELLS_FIRST
					       : RECLAIM_DRIVER_MAY_NOT_TELL);
	start_asking(b);
}

/* True: every page is the guest's again. Else the timer goes on with it. */
static bool continue_reset(struct virtio_balloon *b)
{
	int r = reclaim_give_back_all(b->reclaim, RESET_STEP);
	if (r < 0) {
		wait_for_memory(b, "reset");
		return false;
	}
	if (r > 0) {
		event_timer_set(&b->retry_timer, AT_ONCE, 0);
		return false;
	}
	waited_for_memory(b, "reset");
	start_rest(b);
	return true;
}

static bool balloon_reset(struct virtio *virtio)
{
	struct virtio_balloon *b = balloon_of(virtio);

	event_timer_set(&b->timer, 0, 0);
	event_timer_set(&b->retry_timer, 0, 0);
	for (unsigned int i = 0; i < nitems(b->elements); i++)
		b->elements[i].at_work = false;
	b->deflate_waits = false;
	b->retry_ms = 0;
	b->has_stats_buffer = false;
	forget_stats(b); /* of a driver that is gone */
	set_actual(b, 0);
	b->poison_val = 0;
	return continue_reset(b);
}

/* Config space */

static void balloon_config_fill(struct virtio *virtio, void *space)
{
	const struct virtio_balloon *b = balloon_of(virtio);
	uint32_t *words = space;

	words[CONFIG_NUM_PAGES] = htole32(b->num_pages);
	words[CONFIG_ACTUAL] = htole32(b->actual);
	words[CONFIG_HINT_CMD_ID] = 0;
	words[CONFIG_POISON_VAL] = htole32(b->poison_val);
}

/* Of any size and anywhere: into an image of it all, of which what is the driver's is kept. */
static void balloon_config_write(struct virtio *virtio, unsigned int offset, unsigned int size,
				 uint32_t value)
{
	struct virtio_balloon *b = balloon_of(virtio);
	uint32_t words[CONFIG_WORDS];

	balloon_config_fill(virtio, words);
	value = htole32(value);
	memcpy((char *)words + offset, &value, size);
	set_actual(b, le32toh(words[CONFIG_ACTUAL]));
	if (virtio_has_feature(virtio, F_PAGE_POISON))
		b->poison_val = le32toh(words[CONFIG_POISON_VAL]);
}

static const struct virtio_ops balloon_ops = {
	.kick = balloon_kick,
	.start = balloon_start,
	.reset = balloon_reset,
	.config_fill = balloon_config_fill,
	.config_write = balloon_config_write,
};

/* On the event loop. A reset may have come before a timer's turn: state decides, not that. */

/* With the lock released: who is told may look at us. */
static void pass_events(struct virtio_balloon *b)
{
	pthread_mutex_lock(&b->virtio.lock);
	unsigned int events = b->events;
	b->events = 0;
	pthread_mutex_unlock(&b->virtio.lock);
	for (unsigned int event = 0; b->config.event && events >> event; event++) {
		if (events >> event & 1)
			b->config.event(b->config.opaque, event);
	}
}

static void timer_ready(struct event_source *source, uint32_t events)
{
	struct virtio_balloon *b = container_of(source, struct virtio_balloon, timer);

	(void)events;
	pthread_mutex_lock(&b->virtio.lock);
	(void)eventfd_take(source->fd);
	if (has_stats_driver(b) && b->has_stats_buffer)
		return_stats_buffer(b);
	pthread_mutex_unlock(&b->virtio.lock);
}

static void retry_timer_ready(struct event_source *source, uint32_t events)
{
	struct virtio_balloon *b = container_of(source, struct virtio_balloon, retry_timer);

	(void)events;
	pthread_mutex_lock(&b->virtio.lock);
	(void)eventfd_take(source->fd);
	if (b->virtio.resetting) {
		b->nr_retries += b->retry_ms > 0;
		if (continue_reset(b))
			virtio_reset_done(&b->virtio);
	} else if (b->deflate_waits && virtio_running(&b->virtio)) {
		b->nr_retries++;
		b->deflate_waits = false;
		balloon_kick(&b->virtio, QUEUE_DEFLATE);
	}
	pthread_mutex_unlock(&b->virtio.lock);
	pass_events(b);
}

static void rest_timer_ready(struct event_source *source, uint32_t events)
{
	struct virtio_balloon *b = container_of(source, struct virtio_balloon, rest_timer);

	(void)events;
	pthread_mutex_lock(&b->virtio.lock);
	(void)eventfd_take(source->fd);
	b->rests = false;
	int r = reclaim_tick(b->reclaim);
	if (r != 0)
		start_rest(b);
	if (r < 0)
		event_timer_set(source, AT_ONCE, 0);
	pthread_mutex_unlock(&b->virtio.lock);
}

/* Beginning and end */

static bool has_huge_pages(struct memory_map *map)
{
	bool found = false;

	pthread_rwlock_rdlock(&map->layout_lock);
	list_for_each(n, &map->regions) {
		const struct memory_region *region =
			container_of(n, struct memory_region, link);
		if (region->kind == MEMORY_RAM && region->ram->page_size > GUEST_PAGE_SIZE)
			found = true;
	}
	pthread_rwlock_unlock(&map->layout_lock);
	return found;
}

static int init_virtio(struct virtio_balloon *b, struct memory_map *map,
		       struct event_loop *loop)
{
	struct virtio_config config = {
		.ops = &balloon_ops,
		.name = "balloon",
		.device_id = VIRTIO_ID_BALLOON,
		.features = VIRTIO_FEATURE(F_MUST_TELL_HOST) | VIRTIO_FEATURE(F_STATS_VQ) |
			    VIRTIO_FEATURE(F_PAGE_POISON),
		.config_size = CONFIG_WORDS * sizeof(uint32_t),
		.nr_queues = b->config.reporting ? QUEUE_REPORTING + 1 : QUEUE_REPORTING,
	};

	if (b->config.deflate_on_oom)
		config.features |= VIRTIO_FEATURE(F_DEFLATE_ON_OOM);
	if (b->config.reporting)
		config.features |= VIRTIO_FEATURE(F_REPORTING);
	for (unsigned int i = 0; i < config.nr_queues; i++)
		config.queue_sizes[i] = QUEUE_SIZE;
	return virtio_init(&b->virtio, map, loop, &config);
}

int virtio_balloon_init(struct virtio_balloon *balloon, struct memory_map *map,
			struct reclaim *reclaim, struct event_loop *loop,
			const struct virtio_balloon_config *config)
{
	*balloon = (struct virtio_balloon){
		.reclaim = reclaim,
		.config = *config,
		.ram_size = memory_map_ram_size(map),
		.nr_reporting = QUEUE_REPORTING,
		.timer = { .fd = -1, .ready = timer_ready },
		.retry_timer = { .fd = -1, .ready = retry_timer_ready },
		.rest_timer = { .fd = -1, .ready = rest_timer_ready },
	};
	forget_stats(balloon);
	int r = -EINVAL;
	if (balloon->ram_size > MAX_RAM_SIZE || (config->reporting && has_huge_pages(map)))
		goto fail;
	r = -ENOMEM;
	balloon->pfns = malloc(VIRTIO_BALLOON_MAX_PFNS * sizeof(balloon->pfns[0]));
	if (!balloon->pfns)
		goto fail;
	r = init_virtio(balloon, map, loop);
	if (r >= 0)
		r = event_timer_open(&balloon->timer, loop, 0, 0);
	if (r >= 0)
		r = event_timer_open(&balloon->retry_timer, loop, 0, 0);
	if (r >= 0)
		r = event_timer_open(&balloon->rest_timer, loop, 0, 0);
	if (r < 0)
		goto fail;
	reclaim->tick_opaque = balloon;
	reclaim->tick_due = tick_due;
	return 0;
fail:
	virtio_balloon_finish(balloon);
	return r;
}

void virtio_balloon_finish(struct virtio_balloon *balloon)
{
	struct event_loop *loop = balloon->virtio.loop;

	if (!balloon->reclaim)
		return;
	balloon->reclaim->tick_due = NULL;
	event_source_close(&balloon->timer, loop);
	event_source_close(&balloon->retry_timer, loop);
	event_source_close(&balloon->rest_timer, loop);
	virtio_finish(&balloon->virtio);
	reclaim_forget(balloon->reclaim);
	free(balloon->pfns);
	*balloon = (struct virtio_balloon){ 0 };
}

/* The host's side */

int virtio_balloon_set_target(struct virtio_balloon *balloon, uint64_t bytes)
{
	uint64_t ram_size = balloon->ram_size;
	uint64_t floor = ram_size < VIRTIO_BALLOON_FLOOR ? ram_size : VIRTIO_BALLOON_FLOOR;
	uint64_t nr_pages = bytes >> PFN_SHIFT;

	/* What is no more than that fits into num_pages, RAM being at most MAX_RAM_SIZE. */
	if (nr_pages > (ram_size - floor) >> PFN_SHIFT)
		return -ERANGE;
	pthread_mutex_lock(&balloon->virtio.lock);
	balloon->num_pages = (uint32_t)nr_pages;
	virtio_config_changed(&balloon->virtio);
	pthread_mutex_unlock(&balloon->virtio.lock);
	return 0;
}

void virtio_balloon_get_state(struct virtio_balloon *balloon, struct virtio_balloon_state *ret)
{
	pthread_mutex_lock(&balloon->virtio.lock);
	uint64_t actual = (uint64_t)balloon->actual << PFN_SHIFT;
	*ret = (struct virtio_balloon_state){
		.target = (uint64_t)balloon->num_pages << PFN_SHIFT,
		.actual = actual < balloon->ram_size ? actual : balloon->ram_size,
		.running = virtio_running(&balloon->virtio),
		.tells_host = virtio_has_feature(&balloon->virtio, F_MUST_TELL_HOST),
		.nr_waiting = balloon->deflate_waits,
		.nr_retries = balloon->nr_retries,
		.resetting = balloon->virtio.resetting,
	};
	memcpy(ret->nr_elements, balloon->nr_elements, sizeof(ret->nr_elements));
	pthread_mutex_unlock(&balloon->virtio.lock);
}

int virtio_balloon_request_stats(struct virtio_balloon *balloon)
{
	int r = 0;

	pthread_mutex_lock(&balloon->virtio.lock);
	if (!has_stats_driver(balloon))
		r = -ENOTCONN;
	else if (!balloon->has_stats_buffer)
		r = -EAGAIN;
	else
		return_stats_buffer(balloon);
	pthread_mutex_unlock(&balloon->virtio.lock);
	return r;
}

void virtio_balloon_get_stats(struct virtio_balloon *balloon, struct virtio_balloon_stats *ret)
{
	pthread_mutex_lock(&balloon->virtio.lock);
	*ret = balloon->stats;
	pthread_mutex_unlock(&balloon->virtio.lock);
}

unsigned int virtio_balloon_get_stats_period(struct virtio_balloon *balloon)
{
	pthread_mutex_lock(&balloon->virtio.lock);
	unsigned int seconds = balloon->config.stats_period;
	pthread_mutex_unlock(&balloon->virtio.lock);
	return seconds;
}

void virtio_balloon_set_stats_period(struct virtio_balloon *balloon, unsigned int seconds)
{
	pthread_mutex_lock(&balloon->virtio.lock);
	balloon->config.stats_period = seconds;
	if (virtio_running(&balloon->virtio))
		start_asking(balloon);
	pthread_mutex_unlock(&balloon->virtio.lock);
}

const char *virtio_balloon_stat_name(unsigned int tag)
{
	static const char *const names[VIRTIO_BALLOON_NR_STATS] = {
		"swap-in",      "swap-out",     "major-faults",     "minor-faults",
		"free-memory",  "total-memory", "available-memory", "disk-caches",
		"htlb-pgalloc", "htlb-pgfail",  "oom-kills",        "alloc-stalls",
		"async-scans",  "direct-scans", "async-reclaims",   "direct-reclaims",
	};

	assert(tag < VIRTIO_BALLOON_NR_STATS);
	return names[tag];
}
