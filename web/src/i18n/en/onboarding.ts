export const onboarding = {
  'onboarding.unreachable.title': 'The cloud cannot be reached',
  'onboarding.retryIn': 'Trying again in {seconds} s.',
  'onboarding.retrying': 'Trying again …',
  'onboarding.tryNow': 'Try now',
} as const;
