/* SPDX-License-Identifier: MIT */
/*
 * bits.h - bitmaps: bit i is bit i % 64 of word i / 64.
 *
 * Threads: as the owner of the words says; no access is atomic.
 */
#ifndef BASE_BITS_H
#define BASE_BITS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#define BITS_A_WORD 64u

/* Bits [first, end). Empty: end <= first. */
struct span {
	uint64_t first;
	uint64_t end;
};

/* `nr` clear bits, the caller's to free(); NULL: no memory. */
static inline uint64_t *bits_create(uint64_t nr)
{
	return calloc(nr / BITS_A_WORD + 1, sizeof(uint64_t));
}

static inline bool bit_test(const uint64_t *bits, uint64_t i)
{
	return bits[i / BITS_A_WORD] >> (i % BITS_A_WORD) & 1;
}

/* Both return by how many the number of bits set has changed: 0 or 1. */
static inline unsigned int bit_set(uint64_t *bits, uint64_t i)
{
	unsigned int change = !bit_test(bits, i);

	bits[i / BITS_A_WORD] |= 1ull << (i % BITS_A_WORD);
	return change;
}

static inline unsigned int bit_clear(uint64_t *bits, uint64_t i)
{
	unsigned int change = bit_test(bits, i);

	bits[i / BITS_A_WORD] &= ~(1ull << (i % BITS_A_WORD));
	return change;
}

/*
 * The first bit at or after span.first that is set (or clear, by `what`); span.end if there is
 * none. A word at a time where it can.
 */
static inline uint64_t bits_find(const uint64_t *bits, struct span span, bool what)
{
	const uint64_t none = what ? 0 : UINT64_MAX;
	uint64_t i = span.first;

	while (i < span.end) {
		if (i % BITS_A_WORD == 0 && span.end - i >= BITS_A_WORD &&
		    bits[i / BITS_A_WORD] == none)
			i += BITS_A_WORD;
		else if (bit_test(bits, i) == what)
			return i;
		else
			i++;
	}
	return span.end;
}

static inline bool bits_all(const uint64_t *bits, struct span span)
{
	return bits_find(bits, span, false) >= span.end;
}

static inline bool bits_any(const uint64_t *bits, struct span span)
{
	return bits_find(bits, span, true) < span.end;
}

/* The first run of set bits in the span; empty if there is none. */
static inline struct span bits_run(const uint64_t *bits, struct span span)
{
	uint64_t first = bits_find(bits, span, true);
	struct span rest = { first, span.end };

	return (struct span){ first, bits_find(bits, rest, false) };
}

#endif /* BASE_BITS_H */
