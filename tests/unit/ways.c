/* SPDX-License-Identifier: MIT */
/* DESIGN's ways, step by step, as `-v trace` prints them: the straight line is a test. */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/trace.h"

#include "tests/fakes/process.h"
#include "tests/fakes/vfio_world.h"

#define MDEV "83b8f4f2-509f-482f-bc1e-e6bfe0fa1001"

static char seen[4096];

static void remember(const char *event, uint64_t a, uint64_t b)
{
	size_t used = strlen(seen);

	(void)a;
	(void)b;
	(void)snprintf(seen + used, sizeof(seen) - used, "%s\n", event);
}

static void listen_from_here(void)
{
	seen[0] = '\0';
	trace_listen(remember);
}

START_TEST(way_a_a_region_is_added_and_removed)
{
	static struct memory_region region;
	struct vfio_pci *vp;

	add_plain_device("0000:01:00.0", fake_add_group(7));
	vp = attach("0000:01:00.0");
	memory_map_remove(&world.map, &world.high);
	region = world.high;
	listen_from_here();
	ck_assert_int_eq(memory_map_add(&world.map, &region), 0);
	memory_map_remove(&world.map, &region);
	ck_assert_str_eq(seen, "memory_map_add\n"
			       "dma_region_add\n"
			       "ram_populate\n"
			       "dma_populate\n"
			       "memory_map_remove\n"
			       "dma_region_del\n");
	trace_listen(NULL);
	ck_assert_int_eq(memory_map_add(&world.map, &world.high), 0);
	vfio_pci_detach(vp);
}
END_TEST

START_TEST(way_b_an_access_reaches_its_device)
{
	struct vfio_pci *vp;

	add_whole_device("0000:01:00.0", fake_add_group(7));
	vp = attach("0000:01:00.0");
	listen_from_here();
	(void)io_bus_read(&world.mmio, vp->pci.bars[0].address, 4);
	ck_assert_str_eq(seen, "io_bus_read\n");
	trace_listen(NULL);
	vfio_pci_detach(vp);
}
END_TEST

START_TEST(way_c_pages_are_taken_and_given_back)
{
	listen_from_here();
	ck_assert_int_eq(reclaim_take(&world.reclaim, 0, 2 << 20), 0); /* a huge page */
	ck_assert_int_eq(reclaim_give_back(&world.reclaim, 0, 8192), 0);
	ck_assert_str_eq(seen, "reclaim_take\n"
			       "ram_discard\n"
			       "reclaim_give_back\n");
}
END_TEST

START_TEST(way_c_free_pages_are_reported)
{
	listen_from_here();
	ck_assert_int_eq(reclaim_report(&world.reclaim, 0, 8192), 0);
	ck_assert_str_eq(seen, "reclaim_report\n"
			       "ram_discard\n");
}
END_TEST

START_TEST(way_c_stops_at_the_inhibitor)
{
	struct inhibitor inhibitor = { 0 };

	inhibitor_raise(&world.reclaim, &inhibitor, "a test");
	listen_from_here();
	ck_assert_int_eq(reclaim_take(&world.reclaim, 0, 4096), 0);
	ck_assert_int_eq(reclaim_report(&world.reclaim, 8192, 4096), -EBUSY);
	inhibitor_lower(&world.reclaim, &inhibitor);
	(void)reclaim_tick(&world.reclaim);
	/* What was held is discarded when nobody pins any more; what was reported is not. */
	ck_assert_str_eq(seen, "reclaim_take\n"
			       "reclaim_report\n"
			       "inhibitor_lower\n"
			       "reclaim_tick\n"
			       "ram_discard\n");
}
END_TEST

START_TEST(way_d_a_group_is_attached_and_detached)
{
	struct vfio_pci *vp;

	add_plain_device("0000:01:00.0", fake_add_group(7));
	listen_from_here();
	int r = vfio_pci_attach(&world.vfio, &world.bus, "0000:01:00.0", VFIO_BALLOON_INHIBITS,
				&vp);
	ck_assert_int_eq(r, 0);
	ck_assert_str_eq(seen, "vfio_pci_attach\n"
			       "vfio_group_attach\n"
			       "inhibitor_raise\n"
			       "vfio_container_join\n"
			       "vfio_container_wake\n"
			       "pinner_join\n"
			       "memory_map_listen\n"
			       "dma_region_add\n"
			       "ram_populate\n"
			       "dma_populate\n"
			       "dma_region_add\n"
			       "ram_populate\n"
			       "dma_populate\n");
	listen_from_here();
	vfio_pci_detach(vp);
	ck_assert_str_eq(seen, "vfio_pci_detach\n"
			       "vfio_group_detach\n"
			       "memory_map_unlisten\n"
			       "dma_region_del\n"
			       "dma_region_del\n"
			       "memory_map_unlisten\n"
			       "pinner_leave\n"
			       "inhibitor_lower\n");
}
END_TEST

/* Nothing is forbidden, and nothing made present. */
START_TEST(way_d_an_mdev_that_allows_the_balloon_is_attached)
{
	struct vfio_pci *vp;

	add_plain_mdev(MDEV, fake_add_group(7));
	listen_from_here();
	int r = vfio_pci_attach(&world.vfio, &world.bus, MDEV, VFIO_BALLOON_ALLOWED, &vp);
	ck_assert_int_eq(r, 0);
	ck_assert_str_eq(seen, "vfio_pci_attach\n"
			       "vfio_group_attach\n"
			       "vfio_container_join\n"
			       "vfio_container_wake\n"
			       "memory_map_listen\n"
			       "dma_region_add\n"
			       "dma_region_add\n");
	trace_listen(NULL);
	vfio_pci_detach(vp);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		way_a_a_region_is_added_and_removed,
		way_b_an_access_reaches_its_device,
		way_c_pages_are_taken_and_given_back,
		way_c_free_pages_are_reported,
		way_c_stops_at_the_inhibitor,
		way_d_a_group_is_attached_and_detached,
		way_d_an_mdev_that_allows_the_balloon_is_attached,
	};

	return run_tests("ways", world_init, world_finish, tests, nitems(tests));
}
