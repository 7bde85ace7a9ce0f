/* SPDX-License-Identifier: MIT */
/*
 * map.h - which host memory stands behind which guest-physical addresses, and who must know.
 *
 * Concepts
 *  - region: [gpa, gpa + size) backed by host memory. Regions never overlap. Addresses that
 *    trap (MMIO) are not here at all; they live on the io_bus.
 *  - listener: somebody who mirrors the map elsewhere: KVM's memory slots, an IOMMU. It is
 *    told of every region in the order in which listeners joined, and may refuse: those told
 *    before it are then told the reverse, newest first, and the map is as it was.
 *  - joining late is the same calls by replay, with the same unwinding.
 *
 * Threads: any. change_lock is held while listeners are told (a listener may take seconds,
 * and must not change the map); layout_lock is written for three pointers only, so that
 * look-ups never wait for a listener.
 */
#ifndef MEMORY_MAP_H
#define MEMORY_MAP_H

#include <pthread.h>

#include "base/list.h"
#include "base/range.h"
#include "base/util.h"

struct memory_map;
struct memory_listener;
struct ram;

#define GUEST_PAGE_SIZE 4096u

enum memory_kind {
	MEMORY_RAM,    /* guest RAM: DMA-able, may be discarded through memory/reclaim */
	MEMORY_DEVICE, /* a mapped BAR: never touched through memory/access */
};

struct memory_region {
	struct list_node link; /* map->change_lock and layout_lock */
	gpa_t gpa;             /* page-aligned; fixed while in a map */
	uint64_t size;         /* bytes, a multiple of the page size, not 0 */
	void *host;            /* borrowed, outlives the region's stay in the map */
	enum memory_kind kind;
	struct ram *ram;  /* MEMORY_RAM: the block behind `host`; borrowed. Else NULL */
	const char *name; /* borrowed; for logs */
};

struct memory_listener_ops {
	/* Mirrors the region. < 0 (-errno, logged by the listener): refused, nothing kept. */
	int (*add)(struct memory_listener *listener, struct memory_region *region);
	/* Forgets a region that add() accepted. Cannot fail: logs and goes on. */
	void (*del)(struct memory_listener *listener, struct memory_region *region);
};

struct memory_listener {
	struct list_node link; /* map->change_lock */
	const struct memory_listener_ops *ops;
	const char *name; /* borrowed; for logs */
};

struct memory_map {
	pthread_mutex_t change_lock;
	pthread_rwlock_t layout_lock;
	struct list_node regions;   /* ascending by gpa */
	struct list_node listeners; /* in the order of joining */
};

void memory_map_init(struct memory_map *map);
/* No region and no listener may be left. */
void memory_map_finish(struct memory_map *map);

/*
 * Adds a region, whose fields the caller has filled in and which stays the caller's.
 * -EINVAL: empty, wrapping or not page-aligned. -EEXIST: overlaps a region already there.
 * A listener's errno: it refused. On failure the map and every listener are as before.
 */
must_check int memory_map_add(struct memory_map *map, struct memory_region *region);
/* The exact reverse. Does nothing for a region that is in no map. */
void memory_map_remove(struct memory_map *map, struct memory_region *region);

/*
 * Joins: add() is called for each region, lowest address first. A refusal undoes those
 * already told, and is returned; the listener has then not joined.
 */
must_check int memory_map_listen(struct memory_map *map, struct memory_listener *listener);
/* Leaves: del() for each region, highest first. Does nothing for one that never joined. */
void memory_map_unlisten(struct memory_map *map, struct memory_listener *listener);

/*
 * The region that holds all of [gpa, gpa + size), or NULL. Of another kind than RAM it may leave
 * with its device at any time: for whoever knows that it does not.
 */
struct memory_region *memory_map_find(struct memory_map *map, gpa_t gpa, uint64_t size);
/*
 * Where [gpa, gpa + size) of RAM is in our memory, and how many bytes of its region there are from
 * there on; NULL: not all of it is RAM of one region. RAM stays mapped until vCPUs and queues are
 * stopped, so the answer is good for one request.
 */
void *memory_map_find_ram(struct memory_map *map, gpa_t gpa, uint64_t size, uint64_t *ret_left);

/* Sum of the sizes of all MEMORY_RAM regions, in bytes. */
uint64_t memory_map_ram_size(struct memory_map *map);

#endif /* MEMORY_MAP_H */
