export const app = {
  'app.tagline': 'Deine Modelle, überall',
  'app.newChat': 'Neuer Chat',
  'app.settings': 'Einstellungen',
  'app.logOut': 'Abmelden',
} as const;
