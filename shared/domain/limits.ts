/** Bounds of what clients may ask for. The tables of a shard have the same bounds as constraints. */
export const LIMITS = {
  ticketsPerBookingMax: 100,
  ticketsPerEventMax: 10_000_000,
  holdTtlSecondsMax: 3600,
  holdTtlSecondsDefault: 600,
  maxPerUserDefault: 2,
  nameCharactersMax: 200,
  pageItemsMax: 100,
  pageItemsDefault: 20,
} as const;
