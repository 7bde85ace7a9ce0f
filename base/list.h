/* SPDX-License-Identifier: MIT */
/*
 * list.h - a circular doubly linked list, embedded in what it links.
 *
 * A zeroed node is "not on any list"; list_remove() brings a node back to that state and
 * does nothing to one already there, so that finish functions may call it always.
 * Threads: as its owner says; the list takes no lock.
 */
#ifndef BASE_LIST_H
#define BASE_LIST_H

#include <stdbool.h>

#include "base/util.h"

struct list_node {
	struct list_node *next;
	struct list_node *prev;
};

static inline void list_init(struct list_node *list)
{
	list->next = list;
	list->prev = list;
}

static inline bool list_empty(const struct list_node *list)
{
	return list->next == list;
}

static inline bool list_linked(const struct list_node *n)
{
	return n->next != NULL;
}

/* Puts `n` before `at`; with the list's head as `at`: at the end. */
static inline void list_insert_before(struct list_node *at, struct list_node *n)
{
	n->prev = at->prev;
	n->next = at;
	at->prev->next = n;
	at->prev = n;
}

static inline void list_append(struct list_node *list, struct list_node *n)
{
	list_insert_before(list, n);
}

static inline void list_remove(struct list_node *n)
{
	if (!list_linked(n))
		return;
	n->prev->next = n->next;
	n->next->prev = n->prev;
	n->next = NULL;
	n->prev = NULL;
}

#define list_for_each(n, list) \
	for (struct list_node *n = (list)->next; n != (list); n = n->next)

/* Allows removal of `n` in the body. */
#define list_for_each_safe(n, list)                                                \
	for (struct list_node *n = (list)->next, *n##_next = n->next; n != (list); \
	     n = n##_next, n##_next = n->next)

/* From the node before `from` back to the first. */
#define list_for_each_reverse_from(n, from, list) \
	for (struct list_node *n = (from)->prev; n != (list); n = n->prev)

#endif /* BASE_LIST_H */
