/* SPDX-License-Identifier: MIT */
/* The calls themselves: what the kernel is handed, and what its answers may not do to us. */
#include <check.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <sys/ioctl.h>
#include <sys/mman.h>

#include "base/fd.h"

#include "vfio/uapi.h"

#define FD 1000

/* The kernel's side: what it was last asked, and what it answers with. */
static unsigned long last_request;
static unsigned char asked[16384];
static unsigned int nr_asked;
static unsigned char answer[16384];
static uint32_t answer_size;
static int answer_error;
static int answer_result;
static uint32_t grows_by; /* with each time it is asked */

/* In the place of the C library's. Copies as much of the answer as the asker has room for. */
int ioctl(int fd, unsigned long request, ...)
{
	va_list args;
	uint32_t argsz;

	va_start(args, request);
	void *arg = va_arg(args, void *);
	va_end(args);
	ck_assert_int_eq(fd, FD);
	last_request = request;
	nr_asked++;
	if (answer_error) {
		errno = answer_error;
		return -1;
	}
	if (request == VFIO_SET_IOMMU || request == VFIO_DEVICE_RESET ||
	    request == VFIO_GET_API_VERSION || request == VFIO_CHECK_EXTENSION)
		return answer_result;
	memcpy(&argsz, arg, sizeof(argsz));
	ck_assert_uint_le(argsz, sizeof(asked));
	memcpy(asked, arg, argsz);
	if (answer_size) {
		answer_size += grows_by;
		memcpy(answer, &answer_size, sizeof(answer_size));
		memcpy(arg, answer, argsz < answer_size ? argsz : answer_size);
	}
	return answer_result;
}

static void setup(void)
{
	memset(asked, 0, sizeof(asked));
	memset(answer, 0, sizeof(answer));
	nr_asked = 0;
	answer_size = 0;
	answer_error = 0;
	answer_result = 0;
	grows_by = 0;
}

static void put_cap(uint32_t at, uint16_t id, uint32_t next)
{
	const struct vfio_info_cap_header header = { .id = id, .version = 1, .next = next };

	memcpy(answer + at, &header, sizeof(header));
}

static void put_32(uint32_t at, uint32_t value)
{
	memcpy(answer + at, &value, sizeof(value));
}

static void put_64(uint32_t at, uint64_t value)
{
	memcpy(answer + at, &value, sizeof(value));
}

/* An answer of 128 bytes: entries at 64, ranges at 80. */
static void answer_iommu(void)
{
	const struct vfio_iommu_type1_info info = {
		.flags = VFIO_IOMMU_INFO_PGSIZES | VFIO_IOMMU_INFO_CAPS,
		.iova_pgsizes = 4096,
		.cap_offset = 64,
	};

	memcpy(answer, &info, sizeof(info));
	put_cap(64, VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL, 80);
	put_32(72, 65535);
	put_cap(80, VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, 0);
	put_32(88, 2);
	put_64(96, 0);
	put_64(104, 0xfedfffff);
	put_64(112, 0xfef00000);
	put_64(120, (1ull << 48) - 1);
	answer_size = 128;
}

static void expect_iommu(int result)
{
	struct vfio_iommu iommu;

	ck_assert_int_eq(vfio_get_iommu(FD, &iommu), result);
}

START_TEST(an_answer_that_does_not_fit_is_asked_for_again)
{
	struct vfio_iommu iommu;

	answer_iommu();
	ck_assert_int_eq(vfio_get_iommu(FD, &iommu), 0);
	ck_assert_uint_eq(nr_asked, 2);
	ck_assert(iommu.has_entries);
	ck_assert_uint_eq(iommu.entries, 65535);
	ck_assert_uint_eq(iommu.nr_ranges, 2);
	ck_assert_uint_eq(iommu.ranges[0].end, 0xfedfffff);
	ck_assert_uint_eq(iommu.ranges[1].start, 0xfef00000);
	vfio_iommu_finish(&iommu);
	ck_assert_ptr_null(iommu.ranges);
}
END_TEST

START_TEST(a_kernel_that_says_nothing_of_ranges_is_believed)
{
	struct vfio_iommu iommu;

	answer_size = sizeof(struct vfio_iommu_type1_info);
	ck_assert_int_eq(vfio_get_iommu(FD, &iommu), 0);
	ck_assert_uint_eq(iommu.nr_ranges, 0);
	ck_assert(!iommu.has_entries);
	vfio_iommu_finish(&iommu);
}
END_TEST

START_TEST(a_chain_is_not_looked_for_unless_it_is_said_to_be_there)
{
	struct vfio_iommu iommu;

	answer_iommu();
	put_32(4, VFIO_IOMMU_INFO_PGSIZES);
	ck_assert_int_eq(vfio_get_iommu(FD, &iommu), 0);
	ck_assert_uint_eq(iommu.nr_ranges, 0);
	vfio_iommu_finish(&iommu);
}
END_TEST

START_TEST(a_chain_that_is_a_ring_is_an_error)
{
	answer_iommu();
	put_cap(64, 99, 80);
	put_cap(80, 98, 64);
	expect_iommu(-EPROTO);
}
END_TEST

/* Loop: places of a next capability outside of the answer, or with too little behind them. */
START_TEST(a_chain_that_leaves_the_answer_is_an_error)
{
	static const uint32_t places[] = { 128, 124, 121, 4096, UINT32_MAX, UINT32_MAX - 3 };

	answer_iommu();
	put_cap(64, 99, places[_i]);
	expect_iommu(-EPROTO);
}
END_TEST

START_TEST(a_capability_cut_off_by_the_answers_end_is_an_error)
{
	answer_iommu();
	put_cap(64, 99, 120);
	put_cap(120, VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, 0);
	expect_iommu(-EPROTO);
}
END_TEST

/* Loop: more ranges than fit, up to what makes a multiplication wrap. */
START_TEST(more_ranges_than_the_answer_holds_is_an_error)
{
	static const uint32_t counts[] = { 3, 4096, 0x10000000, UINT32_MAX };

	answer_iommu();
	put_32(88, counts[_i]);
	expect_iommu(-EPROTO);
}
END_TEST

START_TEST(a_range_that_ends_before_it_starts_is_an_error)
{
	answer_iommu();
	put_64(112, 1ull << 60);
	expect_iommu(-EPROTO);
}
END_TEST

START_TEST(an_answer_that_always_grows_is_given_up)
{
	answer_iommu();
	grows_by = 64;
	expect_iommu(-EAGAIN);
	ck_assert_uint_lt(nr_asked, 100);
}
END_TEST

START_TEST(an_answer_of_absurd_size_is_an_error)
{
	answer_iommu();
	answer_size = 1u << 30;
	expect_iommu(-EPROTO);
	ck_assert_uint_eq(nr_asked, 1);
}
END_TEST

START_TEST(an_errno_comes_back_negative)
{
	struct vfio_device_info info;
	struct vfio_region region;
	uint64_t size;

	answer_error = EPERM;
	expect_iommu(-EPERM);
	ck_assert_int_eq(vfio_set_iommu(FD, VFIO_TYPE1v2_IOMMU), -EPERM);
	ck_assert_int_eq(vfio_map_dma(FD, NULL, 0, 4096), -EPERM);
	ck_assert_int_eq(vfio_unmap_dma(FD, 0, 4096, &size), -EPERM);
	ck_assert_int_eq(vfio_device_get_info(FD, &info), -EPERM);
	ck_assert_int_eq(vfio_device_get_region(FD, 0, &region), -EPERM);
	ck_assert_int_eq(vfio_irqs_disable(FD, 0), -EPERM);
	ck_assert_int_eq(vfio_device_reset_function(FD), -EPERM);
}
END_TEST

START_TEST(a_map_says_what_where_and_how)
{
	struct vfio_iommu_type1_dma_map map;

	ck_assert_int_eq(vfio_map_dma(FD, (void *)0x7f0000000000, 1ull << 32, 1ull << 30), 0);
	ck_assert_uint_eq(last_request, VFIO_IOMMU_MAP_DMA);
	memcpy(&map, asked, sizeof(map));
	ck_assert_uint_eq(map.argsz, sizeof(map));
	ck_assert_uint_eq(map.flags, VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE);
	ck_assert_uint_eq(map.vaddr, 0x7f0000000000);
	ck_assert_uint_eq(map.iova, 1ull << 32);
	ck_assert_uint_eq(map.size, 1ull << 30);
}
END_TEST

START_TEST(an_unmap_returns_what_was_unmapped)
{
	const struct vfio_iommu_type1_dma_unmap unmapped = { .size = 4096 };
	uint64_t size = 0;

	memcpy(answer, &unmapped, sizeof(unmapped));
	answer_size = sizeof(unmapped);
	ck_assert_int_eq(vfio_unmap_dma(FD, 0x1000, 0x2000, &size), 0);
	ck_assert_uint_eq(size, 4096);
}
END_TEST

/* 96 bytes: the sparse capability at 32, its areas from 48. */
static void answer_region(uint32_t nr_areas)
{
	const struct vfio_region_info info = {
		.flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_CAPS,
		.index = 2,
		.cap_offset = 32,
		.size = 65536,
		.offset = 2ull << 40,
	};

	memcpy(answer, &info, sizeof(info));
	put_cap(32, VFIO_REGION_INFO_CAP_SPARSE_MMAP, 0);
	put_32(40, nr_areas);
	put_64(48, 0x1000);
	put_64(56, 0x2000);
	put_64(64, 0x4000);
	put_64(72, 0);
	answer_size = 80;
}

START_TEST(a_sparse_region_lists_its_areas)
{
	struct vfio_region region;

	answer_region(2);
	ck_assert_int_eq(vfio_device_get_region(FD, 2, &region), 0);
	ck_assert_uint_eq(((struct vfio_region_info *)(void *)asked)->index, 2);
	ck_assert_uint_eq(region.size, 65536);
	ck_assert_uint_eq(region.offset, 2ull << 40);
	ck_assert(region.sparse);
	ck_assert_uint_eq(region.nr_areas, 2);
	ck_assert_uint_eq(region.areas[0].size, 0x2000);
	vfio_region_finish(&region);
	ck_assert_ptr_null(region.areas);
}
END_TEST

START_TEST(a_sparse_region_may_list_none)
{
	struct vfio_region region;

	answer_region(0);
	ck_assert_int_eq(vfio_device_get_region(FD, 2, &region), 0);
	ck_assert(region.sparse);
	ck_assert_uint_eq(region.nr_areas, 0);
	vfio_region_finish(&region);
}
END_TEST

START_TEST(more_areas_than_the_answer_holds_is_an_error)
{
	struct vfio_region region;

	answer_region(3);
	ck_assert_int_eq(vfio_device_get_region(FD, 2, &region), -EPROTO);
}
END_TEST

START_TEST(eventfds_are_bound_with_their_number_and_place)
{
	static const int32_t fds[] = { 5, -1, 7 };
	struct vfio_irq_set set;

	ck_assert_int_eq(vfio_irqs_bind(FD, VFIO_PCI_MSIX_IRQ_INDEX, 4, 3, fds), 0);
	memcpy(&set, asked, sizeof(set));
	ck_assert_uint_eq(set.argsz, sizeof(set) + sizeof(fds));
	ck_assert_uint_eq(set.flags, VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER);
	ck_assert_uint_eq(set.index, VFIO_PCI_MSIX_IRQ_INDEX);
	ck_assert_uint_eq(set.start, 4);
	ck_assert_uint_eq(set.count, 3);
	ck_assert_mem_eq(asked + sizeof(set), fds, sizeof(fds));
}
END_TEST

START_TEST(a_positive_answer_to_binding_is_passed_on)
{
	static const int32_t fds[8];

	answer_result = 3;
	ck_assert_int_eq(vfio_irqs_bind(FD, VFIO_PCI_MSI_IRQ_INDEX, 0, 8, fds), 3);
}
END_TEST

START_TEST(an_index_is_switched_off_with_a_count_of_0)
{
	struct vfio_irq_set set;

	ck_assert_int_eq(vfio_irqs_disable(FD, VFIO_PCI_MSI_IRQ_INDEX), 0);
	memcpy(&set, asked, sizeof(set));
	ck_assert_uint_eq(set.argsz, sizeof(set));
	ck_assert_uint_eq(set.flags, VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER);
	ck_assert_uint_eq(set.count, 0);
}
END_TEST

START_TEST(intx_is_unmasked_by_an_eventfd)
{
	struct vfio_irq_set set;
	int32_t fd;

	ck_assert_int_eq(vfio_intx_unmask_by(FD, 9), 0);
	memcpy(&set, asked, sizeof(set));
	memcpy(&fd, asked + sizeof(set), sizeof(fd));
	ck_assert_uint_eq(set.flags, VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_UNMASK);
	ck_assert_uint_eq(set.count, 1);
	ck_assert_int_eq(fd, 9);
}
END_TEST

START_TEST(a_hot_reset_lists_whom_it_hits)
{
	struct vfio_pci_dependent_device *list;
	unsigned int nr;
	const struct vfio_pci_dependent_device two[] = { { .group_id = 7, .bus = 1 },
							 { .group_id = 8, .bus = 2 } };

	put_32(8, 2);
	memcpy(answer + sizeof(struct vfio_pci_hot_reset_info), two, sizeof(two));
	answer_size = sizeof(struct vfio_pci_hot_reset_info) + sizeof(two);
	ck_assert_int_eq(vfio_device_get_hot_reset(FD, &list, &nr), 0);
	ck_assert_uint_eq(nr, 2);
	ck_assert_uint_eq(list[1].group_id, 8);
	free(list);
}
END_TEST

/* Loop: counts that no list of functions has. */
START_TEST(a_hot_reset_of_an_absurd_count_is_an_error)
{
	static const uint32_t counts[] = { 0, 100000, UINT32_MAX };
	struct vfio_pci_dependent_device *list;
	unsigned int nr;

	put_32(8, counts[_i]);
	answer_size = sizeof(struct vfio_pci_hot_reset_info);
	ck_assert_int_eq(vfio_device_get_hot_reset(FD, &list, &nr), -EPROTO);
}
END_TEST

START_TEST(a_device_that_is_not_there_is_told_from_one_without_a_group)
{
	unsigned int group;
	char driver[64];

	ck_assert_int_eq(vfio_sysfs_group("ffff:ff:1f.7", &group), -ENODEV);
	ck_assert_int_eq(vfio_sysfs_driver("ffff:ff:1f.7", driver, sizeof(driver)), -ENODEV);
	ck_assert_int_eq(vfio_sysfs_is_mdev("ffff:ff:1f.7"), -ENODEV);
	ck_assert_int_eq(vfio_sysfs_is_mdev("83b8f4f2-509f-482f-bc1e-e6bfe0fa1001"), -ENODEV);
}
END_TEST

START_TEST(a_group_that_is_not_there_has_no_devices)
{
	char names[4][VFIO_NAME_SIZE];
	int fd;

	ck_assert_int_lt(vfio_sysfs_group_devices(987654, names, 4), 0);
	ck_assert_int_eq(vfio_open_group(987654, &fd), -ENOENT);
	ck_assert(!vfio_group_is_noiommu(987654));
}
END_TEST

/* Loop: sizes below and above the one from which maps are aligned. */
START_TEST(a_map_shows_the_region_and_fits_huge_pages)
{
	static const uint64_t sizes[] = { 4096, 2ull << 20, 5ull << 20 };
	const uint64_t offset = 1ull << 20;
	int fd = memfd_create("region", MFD_CLOEXEC);
	void *host;

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(ftruncate(fd, 16 << 20), 0);
	ck_assert_int_eq(vfio_pwrite(fd, offset, "front", 5), 5);
	ck_assert_int_eq(vfio_pwrite(fd, offset + sizes[_i] - 4, "back", 4), 4);
	ck_assert_int_eq(vfio_mmap(fd, offset, sizes[_i], &host), 0);
	ck_assert_mem_eq(host, "front", 5);
	ck_assert_mem_eq((char *)host + sizes[_i] - 4, "back", 4);
	if (sizes[_i] >= 2ull << 20)
		ck_assert_uint_eq(((uintptr_t)host - offset) % (2ull << 20), 0);
	vfio_munmap(host, sizes[_i]);
	close(fd);
}
END_TEST

START_TEST(a_map_that_fails_leaves_none)
{
	void *host = NULL;

	ck_assert_int_eq(vfio_mmap(-1, 0, 4096, &host), -EBADF);
	ck_assert_int_eq(vfio_mmap(-1, 0, 4ull << 20, &host), -EBADF);
	ck_assert_ptr_null(host);
}
END_TEST

START_TEST(a_read_beyond_the_end_reads_nothing)
{
	char buffer[4];
	int fd = memfd_create("region", MFD_CLOEXEC);

	ck_assert_int_eq(vfio_pread(fd, 0, buffer, sizeof(buffer)), 0);
	ck_assert_int_eq(vfio_pread(-1, 0, buffer, sizeof(buffer)), -EBADF);
	ck_assert_int_eq(vfio_pwrite(-1, 0, buffer, sizeof(buffer)), -EBADF);
	vfio_close(&fd);
	ck_assert_int_eq(fd, -1);
	vfio_close(&fd);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("vfio_uapi");
	TCase *tests = tcase_create("uapi");

	tcase_add_checked_fixture(tests, setup, NULL);
	tcase_add_test(tests, an_answer_that_does_not_fit_is_asked_for_again);
	tcase_add_test(tests, a_kernel_that_says_nothing_of_ranges_is_believed);
	tcase_add_test(tests, a_chain_is_not_looked_for_unless_it_is_said_to_be_there);
	tcase_add_test(tests, a_chain_that_is_a_ring_is_an_error);
	tcase_add_loop_test(tests, a_chain_that_leaves_the_answer_is_an_error, 0, 6);
	tcase_add_test(tests, a_capability_cut_off_by_the_answers_end_is_an_error);
	tcase_add_loop_test(tests, more_ranges_than_the_answer_holds_is_an_error, 0, 4);
	tcase_add_test(tests, a_range_that_ends_before_it_starts_is_an_error);
	tcase_add_test(tests, an_answer_that_always_grows_is_given_up);
	tcase_add_test(tests, an_answer_of_absurd_size_is_an_error);
	tcase_add_test(tests, an_errno_comes_back_negative);
	tcase_add_test(tests, a_map_says_what_where_and_how);
	tcase_add_test(tests, an_unmap_returns_what_was_unmapped);
	tcase_add_test(tests, a_sparse_region_lists_its_areas);
	tcase_add_test(tests, a_sparse_region_may_list_none);
	tcase_add_test(tests, more_areas_than_the_answer_holds_is_an_error);
	tcase_add_test(tests, eventfds_are_bound_with_their_number_and_place);
	tcase_add_test(tests, a_positive_answer_to_binding_is_passed_on);
	tcase_add_test(tests, an_index_is_switched_off_with_a_count_of_0);
	tcase_add_test(tests, intx_is_unmasked_by_an_eventfd);
	tcase_add_test(tests, a_hot_reset_lists_whom_it_hits);
	tcase_add_loop_test(tests, a_hot_reset_of_an_absurd_count_is_an_error, 0, 3);
	tcase_add_test(tests, a_device_that_is_not_there_is_told_from_one_without_a_group);
	tcase_add_test(tests, a_group_that_is_not_there_has_no_devices);
	tcase_add_loop_test(tests, a_map_shows_the_region_and_fits_huge_pages, 0, 3);
	tcase_add_test(tests, a_map_that_fails_leaves_none);
	tcase_add_test(tests, a_read_beyond_the_end_reads_nothing);
	suite_add_tcase(suite, tests);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
