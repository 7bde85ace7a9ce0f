/* SPDX-License-Identifier: MIT */
#include "tests/guest/balloon_driver.h"

#define MARK 0x6d61726b65640000ull
#define MAX_SENT 512u
/* What balloon_still_serves() uses of the arena: a huge page, which is discarded at once. */
#define PROOF_PAGE (7 * MAX_SENT)

struct virtio_device balloon;
struct ring rings[MAX_QUEUES];

void balloon_prepare(uint64_t features)
{
	CHECK(virtio_negotiate(&balloon, features));
	ring_prepare(&rings[QUEUE_INFLATE], &balloon, QUEUE_INFLATE);
	ring_prepare(&rings[QUEUE_DEFLATE], &balloon, QUEUE_DEFLATE);
	if (features & FEATURE(F_STATS_VQ))
		ring_prepare(&rings[QUEUE_STATS], &balloon, QUEUE_STATS);
	if (features & FEATURE(F_REPORTING))
		ring_prepare(&rings[QUEUE_REPORTING], &balloon, QUEUE_REPORTING);
}

void balloon_start(uint64_t features)
{
	balloon_prepare(features);
	ring_enable(&rings[QUEUE_INFLATE]);
	ring_enable(&rings[QUEUE_DEFLATE]);
	if (features & FEATURE(F_STATS_VQ))
		ring_enable(&rings[QUEUE_STATS]);
	if (features & FEATURE(F_REPORTING))
		ring_enable(&rings[QUEUE_REPORTING]);
	virtio_driver_ok(&balloon);
}

uint64_t page(unsigned int n)
{
	return ARENA + (uint64_t)n * PAGE_SIZE;
}

uint32_t pfn(unsigned int n)
{
	return (uint32_t)(page(n) / PAGE_SIZE);
}

static const uint32_t places[] = { 0, 2048, PAGE_SIZE - 8 };

void page_mark(unsigned int n)
{
	for (unsigned int i = 0; i < nitems(places); i++)
		write64(page(n) + places[i], MARK + n);
}

void page_check_marked(unsigned int n)
{
	for (unsigned int i = 0; i < nitems(places); i++)
		CHECK_EQ(read64(page(n) + places[i]), MARK + n);
}

void page_check_zero(unsigned int n)
{
	uint32_t from = milliseconds();

	while (read64(page(n)) != 0 && milliseconds() - from < WAIT_MS) {
	}
	for (unsigned int i = 0; i < nitems(places); i++)
		CHECK_EQ(read64(page(n) + places[i]), 0);
}

void balloon_send(unsigned int queue, const uint32_t *pfns, unsigned int count)
{
	ring_describe(&rings[queue], 0, (uint64_t)pfns, 4 * count, 0, 0);
	ring_offer(&rings[queue], 0);
	ring_kick(&rings[queue]);
	CHECK(ring_served(&rings[queue]));
}

static void send_pages(unsigned int queue, unsigned int first, unsigned int count)
{
	static uint32_t pfns[MAX_SENT];

	CHECK(count <= nitems(pfns));
	for (unsigned int i = 0; i < count; i++)
		pfns[i] = pfn(first + i);
	balloon_send(queue, pfns, count);
}

void balloon_inflate(unsigned int first, unsigned int count)
{
	send_pages(QUEUE_INFLATE, first, count);
}

void balloon_deflate(unsigned int first, unsigned int count)
{
	send_pages(QUEUE_DEFLATE, first, count);
}

void balloon_still_serves(void)
{
	balloon_start(USUAL_FEATURES);
	page_mark(PROOF_PAGE);
	balloon_inflate(PROOF_PAGE, MAX_SENT);
	page_check_zero(PROOF_PAGE);
	balloon_deflate(PROOF_PAGE, MAX_SENT);
	page_mark(PROOF_PAGE);
	page_check_marked(PROOF_PAGE);
	CHECK_EQ(virtio_status(&balloon) & VIRTIO_CONFIG_S_NEEDS_RESET, 0);
}

uint64_t host_memory(const char *keys)
{
	ask("{\"execute\": \"x-ballast-query-memory\"}");
	return answer(keys);
}
