export const onboarding = {
  'onboarding.unreachable.title': 'Die Cloud ist nicht erreichbar',
  'onboarding.retryIn': 'Neuer Versuch in {seconds} s.',
  'onboarding.retrying': 'Neuer Versuch …',
  'onboarding.tryNow': 'Jetzt versuchen',
} as const;
